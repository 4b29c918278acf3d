"""The training engine: one optimizer update, and its state by parameter name.

May import torch, deepspeed, config, settings, optim and stage0.
"""

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
import torch.distributed as dist
from torch import Tensor, nn

from ..config.base import Config
from . import optim, stage0
from .settings import batch_plan, deepspeed_config, resolve_precision


@dataclass(frozen=True)
class Process:
    """This process's place in the run."""

    rank: int
    world: int
    local_rank: int
    device: torch.device


@dataclass(frozen=True)
class StepResult:
    """The result of one update, as () tensors on the device: reading them waits for the device.

    loss: fp32 mean over this rank's micro-batches. grad_norm: fp32 global norm before clipping (inf or NaN if skipped).
    skipped: bool, True if a non-finite loss or gradient on any rank made every rank leave its parameters alone.
    """

    loss: Tensor
    grad_norm: Tensor
    skipped: Tensor


class Autocast(nn.Module):
    """Runs a module inside a context. (DeepSpeed switches off an autocast that surrounds its own forward.)"""

    def __init__(self, module: nn.Module, autocast: Callable[[], contextlib.AbstractContextManager]):
        super().__init__()
        self.module, self.autocast = module, autocast

    def forward(self, *batch: Any) -> Tensor:
        with self.autocast():
            return self.module(*batch)


def step_seed(seed: int, step: int, rank: int, micro_step: int) -> int:
    """Seed of torch's generators for one forward: 64 bits of BLAKE2b over (seed, step, rank, micro-step)."""
    return int.from_bytes(
        hashlib.blake2b(struct.pack("<4q", seed, step, rank, micro_step), digest_size=8).digest(), "little"
    )


class Engine:
    """Trains one module: forward, backward, averaging over processes, clipping, update.

    `module(images, ids, *labels) -> ()` loss is moved to the device, and its parameters are cast to bf16 for
    "bf16-master".

    Attributes:
        module: the given module. (Its parameters are partitioned at ZeRO stage 3.)
        precision: the arithmetic in use, "auto" resolved.
        micro_batch, accumulation: images per process per forward; forwards per update.
        settings: the dict that DeepSpeed was given.
        saves: True if this process gets the whole state from `state_dict`; at ZeRO stage 0 any process can.
        unchanged: gives contexts that surround the parts of an update in which nothing that is saved changes, except
            buffers, which `rewind` restores.

    Raises:
        ValueError: settings that do not fit; see `batch_plan`, `resolve_precision`, `deepspeed_config`,
            `optim.parameter_groups`.
    """

    def __init__(self, module: nn.Module, config: Config, process: Process):
        import deepspeed

        self.module, self.config, self.process = module, config, process
        self.precision = resolve_precision(config.train, process.device)
        self.micro_batch, self.accumulation = batch_plan(config.train, process.world)
        self.settings = deepspeed_config(config, process.world, self.precision)
        self.stage = config.train.zero_stage
        self.saves = process.rank == 0
        self.unchanged: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
        if self.precision == "fp32":  # convolutions would round to TF32 by default
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        # As given, since a bf16 copy of a position table is not the table.
        self._frozen = {n: p.detach().to("cpu", copy=True) for n, p in module.named_parameters() if not p.requires_grad}
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
        groups = optim.parameter_groups(self.module, config.optim)
        if self.stage == 0:
            optimizer = optim.stage0_optimizer(groups, config.optim, loss_scaling=self.precision == "autocast-fp16")
        else:
            optimizer = torch.optim.AdamW(groups, lr=0.0, betas=config.optim.betas, eps=config.optim.eps, fused=True)
        self.optimizer = optimizer
        self.moments = optimizer.moments if self.stage == 0 else stage0.AdamW.moments
        self.kinds = ("model", *self.moments)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its memory use
            self._deepspeed, *_ = deepspeed.initialize(
                model=Autocast(module, self.autocast), optimizer=optimizer, config=self.settings
            )
        if self.stage:
            stage0.create_state(optimizer, [flat for _, flat in self._partitions()])
        self._before: list[Tensor] = []
        self._statistics = [tensor for name, tensor in self._untrained().items() if name not in self._frozen]

    def train_step(self, step: int, lr: float, micro_batches: Iterable[tuple]) -> StepResult:
        """One update from `accumulation` micro-batches, each group at lr * its "lr_scale". Collective.

        A micro-batch is (images, ids), and what else the module reads, which it moves to the device itself.

        torch's generators are reseeded from (train.seed, step, rank, micro-step) before each forward, so drop path and
        its like need no saved state. Gradients are the mean over micro-batches and processes. An update that is
        skipped leaves buffers (batch norm's statistics) alone too.

        Raises:
            ValueError: the number of micro-batches is not `accumulation`.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        total = torch.zeros((), device=self.process.device)
        self._before = before = [statistic.clone() for statistic in self._statistics]
        count = 0
        for images, ids, *labels in micro_batches:
            if count == self.accumulation:
                raise ValueError(f"an update takes {self.accumulation} micro-batches, got more")
            torch.manual_seed(step_seed(self.config.train.seed, step, self.process.rank, count))
            with self.unchanged():
                images = images.to(self.process.device, non_blocking=True)
                loss = self._deepspeed(images, ids.to(self.process.device, non_blocking=True), *labels)
                total += loss.detach()
                # A loss can be infinite while its gradient is not; NaN gradients make that case the same as the other.
                loss = loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)
                if self.stage == 0:
                    loss = loss * self.optimizer.loss_scale
                self._deepspeed.backward(loss)
            self._deepspeed.step()
            count += 1
        if count != self.accumulation:
            raise ValueError(f"an update takes {self.accumulation} micro-batches, got {count}")
        if self.stage == 0:
            grad_norm, skipped = self.optimizer.grad_norm, self.optimizer.found_inf > 0
        else:
            grad_norm = torch.as_tensor(self._deepspeed.get_global_grad_norm(), dtype=torch.float32)
            skipped = torch.as_tensor(self._deepspeed.optimizer.overflow)
        for statistic, old in zip(self._statistics, before, strict=True):
            statistic.copy_(torch.where(skipped, old, statistic))
        self._before = []
        return StepResult(total / self.accumulation, grad_norm, skipped)

    def rewind(self) -> None:
        """Goes back from the middle of an update, inside `unchanged`, to the last finished one."""
        for statistic, old in zip(self._statistics, self._before, strict=False):
            statistic.copy_(old)
        self._before = []

    def reduce_sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes; integers wrap around. Collective."""
        value = value.detach().to(self.process.device, copy=True)
        if self.process.world > 1:
            dist.all_reduce(value)
        return value

    def reduce_mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes. Collective."""
        return self.reduce_sum(value) / self.process.world

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode, no gradients, the run's arithmetic. At ZeRO stage 3, forwards inside are collective."""
        self.module.eval()
        try:
            with torch.no_grad(), self.autocast():
                yield
        finally:
            self.module.train()

    def _partitions(self) -> list[tuple[list[nn.Parameter], Tensor]]:
        """Returns (parameters, this rank's flat fp32 part of them) for each tensor updated at ZeRO >= 1."""
        zero = self._deepspeed.optimizer
        if self.stage == 3:
            return list(zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True))
        if hasattr(zero, "bf16_groups"):  # stage 1 with bf16 weights is another class
            return list(zip(zero.bf16_groups, zero.fp32_groups_flat_partition, strict=True))
        return list(zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True))

    def _fragments(self) -> dict[str, tuple[int, dict[str, Tensor]]]:
        """Maps each parameter to (offset of this rank's slice, {kind: flat fp32 view})."""
        if self.stage == 0:
            state = self.optimizer.state
            return {
                name: (0, {"model": m.detach().view(-1), **{k: state[m][k].view(-1) for k in self.moments}})
                for name, m in self.optimizer.masters.items()
            }
        names = {p: name for name, p in self.module.named_parameters()}
        fragments = {}
        for parameters, flat in self._partitions():
            sources = {"model": flat.detach(), **{k: self.optimizer.state[flat][k] for k in self.moments}}
            start = 0
            for p in parameters:
                if self.stage == 3:
                    share = p.partition_numel()
                    offset, at = share * self.process.rank, start
                    count = min(share, p.ds_numel - offset)
                    start += share
                elif p._hp_mapping is None:
                    continue
                else:
                    offset = p._hp_mapping.lp_fragment_address.start
                    at, count = p._hp_mapping.hp_fragment_address.start, p._hp_mapping.hp_fragment_address.numel
                if count > 0:
                    fragments[names[p]] = offset, {k: v[at : at + count] for k, v in sources.items()}
        return fragments

    def _trained(self) -> dict[str, torch.Size]:
        return {name: getattr(p, "ds_shape", p.shape) for name, p in self.module.named_parameters() if p.requires_grad}

    def _untrained(self) -> dict[str, Tensor]:
        kept = self.module.state_dict(keep_vars=True).keys()
        frozen = {name: p for name, p in self.module.named_parameters() if not p.requires_grad}
        return {**frozen, **{name: b for name, b in self.module.named_buffers() if name in kept}}

    def _steps(self) -> list[Tensor]:
        if self.stage == 0:
            return self.optimizer.steps()
        return [state["step"] for state in self.optimizer.state.values()]

    def local_weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name, flat fp32 weights) of what this rank updates: all at stage 0, this rank's part at ZeRO >= 1."""
        for name, (_, tensors) in self._fragments().items():
            yield name, tensors["model"]

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Everything that training continues from, whole and by parameter name, whatever the layout. Collective.

        Returns: on rank 0, CPU tensors: "model" (fp32 masters of trained parameters; frozen ones and buffers as they
        are), the optimizer's moments (of trained ones), "scalars" (optimizer_step; loss_scale and loss_scale_growth for
        fp16). Other ranks: an empty dict.
        """
        first = self.saves
        state: dict[str, dict[str, Tensor]] = {kind: {} for kind in self.kinds}
        fragments = self._fragments()
        for name, shape in self._trained().items():
            for kind in self.kinds:
                # Bits are summed as integers: a sum of floats would turn -0.0 into 0.0.
                whole = torch.zeros(shape.numel(), dtype=torch.int32, device=self.process.device)
                if name in fragments and (first or self.stage):
                    offset, tensors = fragments[name]
                    whole[offset : offset + tensors[kind].numel()] = tensors[kind].view(torch.int32)
                if self.stage and self.process.world > 1:
                    dist.reduce(whole, 0)
                if first:
                    state[kind][name] = whole.view(torch.float32).view(shape).to("cpu", copy=True)
        if first:
            buffers = {name: b for name, b in self._untrained().items() if name not in self._frozen}
            state["model"] |= {name: t.detach().to("cpu", copy=True) for name, t in (self._frozen | buffers).items()}
        state["scalars"] = {"optimizer_step": self._steps()[0].to("cpu", torch.int64, copy=True)}
        if self.precision == "autocast-fp16":
            state["scalars"]["loss_scale"] = self.optimizer.loss_scale.cpu().clone()
            state["scalars"]["loss_scale_growth"] = self.optimizer.growth.cpu().clone()
        return state if first else {}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Continues from `state_dict`'s result, of any ZeRO stage, precision and number of processes. Collective.

        Args:
            state: read on rank 0; ignored on the others, which get their part from rank 0.
        Raises:
            ValueError: on every rank, if rank 0's state does not fit this module.
        """
        trained, untrained = self._trained(), self._untrained()
        shapes = {**trained, **{name: getattr(t, "ds_shape", t.shape) for name, t in untrained.items()}}
        problems = self._misfits(state, shapes, trained) if self.process.rank == 0 else []
        if int(self.from_first(torch.tensor(len(problems)), torch.Size(), torch.int64)):
            raise ValueError("; ".join(problems[:5]) or "rank 0 refused the state; its message says why")
        fragments = self._fragments()
        for kind in self.kinds:
            for name, shape in trained.items():
                whole = self.from_first(state[kind][name] if state else None, shape, torch.float32).view(-1)
                if name in fragments:
                    offset, tensors = fragments[name]
                    tensors[kind].copy_(whole[offset : offset + tensors[kind].numel()])
        for name, tensor in untrained.items():
            whole = self.from_first(state["model"][name] if state else None, shapes[name], tensor.dtype)
            with self._whole(tensor, modifier_rank=0):
                tensor.detach().copy_(whole)
            if state and name in self._frozen:
                self._frozen[name] = state["model"][name]
        scalars = state.get("scalars", {})
        step = self.from_first(scalars.get("optimizer_step"), torch.Size(), torch.int64)
        for counter in self._steps():
            counter.copy_(step)
        if self.precision == "autocast-fp16":
            scale, growth = self.optimizer.loss_scale, self.optimizer.growth
            scale.copy_(self.from_first(scalars.get("loss_scale", scale), scale.shape, scale.dtype))
            growth.copy_(self.from_first(scalars.get("loss_scale_growth", growth), growth.shape, growth.dtype))
        self._refresh()

    def _misfits(self, state: dict, shapes: dict[str, torch.Size], trained: dict[str, torch.Size]) -> list[str]:
        problems = []
        for kind in self.kinds:
            expected, given = (shapes if kind == "model" else trained), state.get(kind, {})
            problems += [f"{kind} lacks {name}" for name in expected if name not in given]
            problems += [
                f"{kind} has {name}, which this model does not train" for name in given if name not in expected
            ]
            problems += [
                f"{kind} of {name} has shape {tuple(given[name].shape)}, expected {tuple(shape)}"
                for name, shape in expected.items()
                if name in given and given[name].shape != shape
            ]
        scalars = state.get("scalars", {})
        if "optimizer_step" not in scalars:
            problems.append("scalars lacks optimizer_step")
        return problems + [f"scalars: {n} is no number" for n, value in scalars.items() if value.numel() != 1]

    def from_first(self, value: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Rank 0's value, on every rank. Collective."""
        if self.process.rank == 0:
            value = value.to(self.process.device, dtype).contiguous()
        else:
            value = torch.empty(shape, dtype=dtype, device=self.process.device)
        if self.process.world > 1:
            dist.broadcast(value, 0)
        return value

    def _whole(self, tensor: Tensor, modifier_rank: int | None = None) -> contextlib.AbstractContextManager:
        """Inside, a partitioned (ZeRO stage 3) parameter is whole; what `modifier_rank` writes is kept."""
        if not hasattr(tensor, "ds_id"):
            return contextlib.nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters([tensor], modifier_rank=modifier_rank)

    def _refresh(self) -> None:
        """Brings the weights of the forward pass up to date with the fp32 ones."""
        zero = self._deepspeed.optimizer
        if self.stage == 0:
            self.optimizer.copy_to_parameters()
        elif self.stage < 3:
            zero.update_lp_params()
        else:
            zero._partition_all_parameters()
            for group in range(len(zero.fp16_groups)):
                zero._reassign_or_swap_out_partitioned_parameters(group)
            if zero.persistent_parameters:
                zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
