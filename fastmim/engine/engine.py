"""The training engine: one optimizer update."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config.base import Experiment
from . import optim, stage0
from .process import Process
from .settings import batch_plan, deepspeed_config, resolve_precision
from .state import State, TrainingState, WholeLayout, ZeroLayout


@dataclass(frozen=True)
class StepResult:
    """The result of one update, as () tensors on the device. Reading them waits for the device.

    Attributes:
        loss: fp32 mean over this rank's micro-batches.
        grad_norm: fp32 global norm before clipping; inf or NaN if the update was skipped.
        skipped: bool, True if the update was skipped on every rank. The cause is a non-finite loss or gradient on any
            rank.
    """

    loss: Tensor
    grad_norm: Tensor
    skipped: Tensor


class Autocast(nn.Module):
    """A module that runs another module inside a context.

    DeepSpeed switches off an autocast that surrounds its own forward.
    """

    def __init__(self, module: nn.Module, autocast: Callable[[], contextlib.AbstractContextManager]):
        super().__init__()
        self.module, self.autocast = module, autocast

    def forward(self, *batch: Any) -> Tensor:
        with self.autocast():
            return self.module(*batch)


def step_seed(seed: int, step: int, rank: int, micro_step: int) -> int:
    """Returns the seed of torch's generators for one forward: 64 bits of BLAKE2b over all arguments."""
    return int.from_bytes(
        hashlib.blake2b(struct.pack("<4q", seed, step, rank, micro_step), digest_size=8).digest(), "little"
    )


class Engine:
    """The trainer of one module: forward, backward, averaging over processes, clipping, update.

    `module(images, ids, *labels)` returns a () loss. The module is moved to the device. Its parameters are cast to
    bf16 for the precision "bf16-master", and partitioned at ZeRO stage 3.

    Args:
        module: the module to train.
        config: config of the run.
        process: this process.

    Attributes:
        precision: the arithmetic in use, one of `train.precision` except "auto".
        micro_batch: images per process per forward.
        accumulation: forwards per update.
        settings: settings of DeepSpeed.
        computing: function that returns a context, which surrounds each forward and backward pass. Of the values in a
            checkpoint, only buffers change inside the context. `rewind` restores the buffers.

    Raises:
        ValueError: settings do not fit each other; see `batch_plan`, `resolve_precision`, `deepspeed_config` and
            `optim.parameter_groups`.
    """

    def __init__(self, module: nn.Module, config: Experiment, process: Process):
        self.module, self.process = module, process
        self.precision = resolve_precision(config.train, process.device)
        self.micro_batch, self.accumulation = batch_plan(config.train, process.world)
        self.settings = deepspeed_config(config, process.world, self.precision)
        self.stage = config.train.zero_stage
        self.computing: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
        self._seed = config.train.seed
        if self.precision == "fp32":  # convolutions would round to TF32 by default
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        # Copied before the cast to bf16, which would round a position table.
        frozen = {n: p.detach().to("cpu", copy=True) for n, p in module.named_parameters() if not p.requires_grad}
        module.to(process.device)
        if self.precision == "bf16-master" and self.stage == 0:
            for p in module.parameters():
                p.data = p.data.to(torch.bfloat16)
        self.autocast = functools.partial(
            torch.autocast,
            process.device.type,
            torch.float16 if self.precision == "autocast-fp16" else torch.bfloat16,
            enabled=self.precision.startswith("autocast"),
        )
        groups, wrapped, scalars = optim.parameter_groups(module, config.optim), Autocast(module, self.autocast), {}
        self._whole: stage0.Stage0Optimizer | None = None
        if self.stage == 0:
            fp16 = self.precision == "autocast-fp16"
            self._whole = self.optimizer = optim.stage0_optimizer(groups, config.optim, loss_scaling=fp16)
            self._deepspeed = _initialize(wrapped, self._whole, self.settings)
            layout = WholeLayout(self._whole)
            if fp16:
                scalars = {"loss_scale": self._whole.loss_scale, "loss_scale_growth": self._whole.growth}
        else:
            adamw = torch.optim.AdamW(groups, lr=0.0, betas=config.optim.betas, eps=config.optim.eps, fused=True)
            self.optimizer = adamw
            self._deepspeed = _initialize(wrapped, adamw, self.settings)
            layout = ZeroLayout(module, adamw, self._deepspeed.optimizer, self.stage, process.rank)
        self._state = TrainingState(module, layout, frozen, scalars, process)
        self._buffers = list(self._state.buffers().values())
        self._buffers_before: list[Tensor] = []

    def train_step(self, step: int, lr: float, micro_batches: Iterable[tuple[Any, ...]]) -> StepResult:
        """Does one update. Collective.

        Torch's generators are reseeded from (train.seed, step, rank, micro-step) before each forward. So drop path and
        other random layers need no saved state. Gradients are the mean over micro-batches and processes. A skipped
        update changes no buffers (batch norm's statistics) either.

        Args:
            step: number of updates before this one.
            lr: learning rate; each parameter group has `lr` times its "lr_scale".
            micro_batches: `accumulation` tuples (images, ids, *labels). The module moves labels to the device itself.

        Raises:
            ValueError: the number of micro-batches is not `accumulation`.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        total = torch.zeros((), device=self.process.device)
        self._buffers_before = before = [buffer.clone() for buffer in self._buffers]
        count = 0
        for images, ids, *labels in micro_batches:
            if count == self.accumulation:
                raise ValueError(f"an update takes {self.accumulation} micro-batches, got more")
            torch.manual_seed(step_seed(self._seed, step, self.process.rank, count))
            with self.computing():
                images = images.to(self.process.device, non_blocking=True)
                loss = self._deepspeed(images, ids.to(self.process.device, non_blocking=True), *labels)
                total += loss.detach()
                # A loss can be infinite while its gradient is finite. NaN gradients make both cases alike.
                loss = loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)
                if self._whole is not None:
                    loss = loss * self._whole.loss_scale
                self._deepspeed.backward(loss)
            self._deepspeed.step()
            count += 1
        if count != self.accumulation:
            raise ValueError(f"an update takes {self.accumulation} micro-batches, got {count}")
        if self._whole is not None:
            grad_norm, skipped = self._whole.grad_norm, self._whole.found_inf > 0
        else:
            grad_norm = torch.as_tensor(self._deepspeed.get_global_grad_norm(), dtype=torch.float32)
            skipped = torch.as_tensor(self._deepspeed.optimizer.overflow)
        for buffer, old in zip(self._buffers, before, strict=True):
            buffer.copy_(torch.where(skipped, old, buffer))
        self._buffers_before = []
        return StepResult(total / self.accumulation, grad_norm, skipped)

    def rewind(self) -> None:
        """Restores the buffers of the last finished update. Call inside the context of `computing`."""
        for buffer, old in zip(self._buffers, self._buffers_before, strict=False):
            buffer.copy_(old)
        self._buffers_before = []

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Switches to evaluation mode in the run's arithmetic, without gradients.

        At ZeRO stage 3, forward passes inside the context are collective.
        """
        self.module.eval()
        try:
            with torch.no_grad(), self.autocast():
                yield
        finally:
            self.module.train()

    def local_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, flat fp32 weights) of each parameter, or of the part that this rank updates."""
        return self._state.local_weights()

    def state_dict(self, alone: bool = False) -> State:
        """Collects the training state; see `TrainingState.state_dict`. Collective."""
        return self._state.state_dict(alone)

    def load_state_dict(self, state: State) -> None:
        """Continues from a result of `state_dict`; see `TrainingState.load_state_dict`. Collective."""
        self._state.load_state_dict(state)


def _initialize(module: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> Any:
    """Returns DeepSpeed's engine, which has no types."""
    import deepspeed

    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints its memory use
        return deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]
