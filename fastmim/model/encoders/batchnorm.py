"""Batch norm whose statistics are known: of which images, and in which arithmetic. May import torch only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules._functions import SyncBatchNorm as sync_batch_norm
from torch.utils import checkpoint as torch_checkpoint


class BatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d that computes in float32 in every precision, over the images of all processes where it should.

    Statistics are of the micro-batch if it holds `batch` images or more, else of all processes' micro-batches together.
    torch can do the latter on GPUs; on CPUs each process keeps its own.
    """

    def __init__(self, norm: nn.BatchNorm2d, batch: int):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.load_state_dict(norm.state_dict())
        self.batch = batch

    def forward(self, x: Tensor) -> Tensor:
        running = (self.running_mean, self.running_var)
        if self.training and self.track_running_stats:
            self.num_batches_tracked += 1
        elif self.training:  # a recomputation, which must take the same path
            running = (self.running_mean.clone(), self.running_var.clone())
        affine = (self.weight.to(self.running_mean.dtype), self.bias.to(self.running_mean.dtype))
        if self.training and dist.is_initialized() and self.shares(len(x), dist.get_world_size(), x.device.type):
            group = dist.group.WORLD
            return sync_batch_norm.apply(x, *affine, *running, self.eps, self.momentum, group, dist.get_world_size())
        if x.device.type == "cpu":
            x = x.contiguous()  # channels-last, torch adds up tens of thousands of values one by one: an error of 1e-3
        return F.batch_norm(x, *running, *affine, self.training, self.momentum, self.eps)

    def shares(self, batch: int, processes: int, device: str) -> bool:
        """True if processes share statistics of micro-batches of `batch` images."""
        return device == "cuda" and processes > 1 and batch < self.batch

    def describe(self, batch: int, processes: int, device: str) -> str:
        """One line that says what the statistics of micro-batches of `batch` images are of."""
        seen = batch * processes if self.shares(batch, processes, device) else batch
        line = f"statistics of {seen} images"
        return line if seen == self.batch else f"{line}, not of {self.batch} (bn_batch): the loss is another one"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """As nn.Module, but statistics stay out of 16 bits, in which a running mean stops running."""
        before = {name: self._buffers[name] for name in ("running_mean", "running_var")}
        super()._apply(fn, recurse)
        for name, statistic in before.items():
            if self._buffers[name].dtype in (torch.bfloat16, torch.float16):
                self._buffers[name] = statistic.to(self._buffers[name].device)
        return self


def replace_batch_norms(module: nn.Module, batch: int) -> None:
    """Makes every plain batch norm inside a BatchNorm of `batch` images."""
    for name, norm in list(module.named_modules()):
        if type(norm) is nn.BatchNorm2d:
            module.set_submodule(name, BatchNorm(norm, batch))


@contextlib.contextmanager
def untracked(module: nn.Module) -> Iterator[None]:
    """Inside, running statistics stay as they are: these images have been counted."""
    norms = [norm for norm in module.modules() if isinstance(norm, BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def checkpoint(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)`, computed again in the backward pass instead of stored; running statistics count it once."""

    def contexts() -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
        return contextlib.nullcontext(), untracked(module)

    return torch_checkpoint.checkpoint(module, x, use_reentrant=False, context_fn=contexts)
