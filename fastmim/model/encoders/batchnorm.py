"""Batch norm in float32, with statistics over a chosen number of images."""

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
    """nn.BatchNorm2d in float32 at every precision, with shared statistics of small micro-batches.

    A micro-batch of at least `batch` images has its own statistics. Smaller micro-batches share statistics among all
    processes. torch shares statistics on GPUs only; on CPUs each process keeps its own.
    """

    def __init__(self, norm: nn.BatchNorm2d, batch: int):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.load_state_dict(norm.state_dict())
        self.batch = batch

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Running mean and variance, (C,) each."""
        mean, var = self.running_mean, self.running_var
        if mean is None or var is None:
            raise RuntimeError("expected a batch norm with running statistics")
        return mean, var

    def forward(self, input: Tensor) -> Tensor:
        x, (mean, var) = input, self.statistics
        if self.training and self.track_running_stats:
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        elif self.training:
            # A recomputation must take the same path as the first pass, so statistics are updated in a copy.
            mean, var = mean.clone(), var.clone()
        running, affine = (mean, var), (self.weight.to(mean.dtype), self.bias.to(mean.dtype))
        if self.training and dist.is_initialized() and self.shares(len(x), dist.get_world_size(), x.device.type):
            group = dist.group.WORLD
            return sync_batch_norm.apply(x, *affine, *running, self.eps, self.momentum, group, dist.get_world_size())
        if x.device.type == "cpu":
            # torch sums channels-last maps value by value: over tens of thousands of values the error is 1e-3.
            x = x.contiguous()
        return F.batch_norm(x, *running, *affine, self.training, self.momentum or 0.0, self.eps)

    def shares(self, batch: int, processes: int, device: str) -> bool:
        """Returns True if processes share the statistics of micro-batches of `batch` images."""
        return device == "cuda" and processes > 1 and batch < self.batch

    def describe(self, batch: int, processes: int, device: str) -> str:
        """Describes in one line which images the statistics of micro-batches of `batch` images cover."""
        seen = batch * processes if self.shares(batch, processes, device) else batch
        line = f"statistics of {seen} images"
        return line if seen == self.batch else f"{line}, not of {self.batch} (bn_batch): the loss differs"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Applies a conversion as nn.Module does, but never stores statistics in 16 bits.

        In 16 bits, the small updates of a running mean would be lost.
        """
        before = self.statistics
        super()._apply(fn, recurse)
        for name, statistic in zip(("running_mean", "running_var"), before, strict=True):
            converted = self.get_buffer(name)
            if converted.dtype in (torch.bfloat16, torch.float16):
                self._buffers[name] = statistic.to(converted.device)
        return self


def replace_batch_norms(module: nn.Module, batch: int) -> None:
    """Replaces every plain batch norm inside a module by a `BatchNorm` of `batch` images."""
    for name, norm in list(module.named_modules()):
        if type(norm) is nn.BatchNorm2d:
            module.set_submodule(name, BatchNorm(norm, batch))


@contextlib.contextmanager
def untracked(module: nn.Module) -> Iterator[None]:
    """Freezes running statistics inside the context, for images that have been counted before."""
    norms = [norm for norm in module.modules() if isinstance(norm, BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def checkpoint(module: nn.Module, x: Tensor) -> Tensor:
    """Runs a module with gradient checkpointing; running statistics count each image once."""

    def contexts() -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
        return contextlib.nullcontext(), untracked(module)

    return torch_checkpoint.checkpoint(module, x, use_reentrant=False, context_fn=contexts)
