"""The training state by parameter name, for any ZeRO stage, precision and number of processes.

`ZeroLayout`, `_shape` and `_whole` read attributes of DeepSpeed that its documentation does not promise. Two other
places use such attributes: `Engine.train_step` reads `optimizer.overflow`, and `init_distributed` sets the table of
ops.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import stage0
from .process import Process

State = dict[str, dict[str, Tensor]]
"""Tensors by group ("model", each moment, "scalars") and name."""


class Fragment(NamedTuple):
    """Slice of a parameter on one rank.

    Attributes:
        offset: position of the slice in the flattened parameter, in elements.
        tensors: flat fp32 views of the slice: "model" (the weights) and each moment of the optimizer.
    """

    offset: int
    tensors: dict[str, Tensor]


class Layout(ABC):
    """Base class of layouts, which find the fp32 weights and moments on this rank."""

    moments: tuple[str, ...]
    """Names of the optimizer's moments."""
    sharded: bool
    """True if each rank holds only a part of the parameters."""

    @abstractmethod
    def fragments(self) -> dict[str, Fragment]:
        """Maps each parameter that this rank updates to its slice on this rank."""

    @abstractmethod
    def counters(self) -> list[Tensor]:
        """Returns the optimizer's counters of updates. A caller may write to them."""

    @abstractmethod
    def refresh(self) -> None:
        """Copies the fp32 weights to the weights of the forward pass."""


class WholeLayout(Layout):
    """The layout of ZeRO stage 0: every rank holds all parameters."""

    sharded = False

    def __init__(self, optimizer: stage0.Stage0Optimizer):
        self.optimizer, self.moments = optimizer, optimizer.moments

    def fragments(self) -> dict[str, Fragment]:
        state = self.optimizer.state
        return {
            name: Fragment(
                0, {"model": m.detach().view(-1), **{kind: state[m][kind].view(-1) for kind in self.moments}}
            )
            for name, m in self.optimizer.masters.items()
        }

    def counters(self) -> list[Tensor]:
        return self.optimizer.counters()

    def refresh(self) -> None:
        self.optimizer.copy_to_parameters()


class ZeroLayout(Layout):
    """The layout of ZeRO stages 1 to 3: each rank holds a part of the flattened parameters.

    Args:
        module: the module that is trained.
        optimizer: the optimizer that DeepSpeed was given; its moments are created here.
        zero: DeepSpeed's wrapper of the optimizer, which has no types.
        stage: ZeRO stage, 1 to 3.
        rank: rank of this process.
    """

    moments = stage0.AdamW.moments
    sharded = True

    def __init__(self, module: nn.Module, optimizer: torch.optim.AdamW, zero: Any, stage: int, rank: int):
        self.module, self.optimizer, self.zero, self.stage, self.rank = module, optimizer, zero, stage, rank
        stage0.create_state(optimizer, [flat for _, flat in self.partitions()])

    def partitions(self) -> list[tuple[list[Any], Tensor]]:
        """Returns the tensors that the optimizer updates, each with its parameters.

        Returns:
            (parameters, this rank's flat fp32 part of them) for each tensor.
        """
        zero = self.zero
        if self.stage == 3:
            return list(zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True))
        if hasattr(zero, "bf16_groups"):  # stage 1 with bf16 weights is another class
            return list(zip(zero.bf16_groups, zero.fp32_groups_flat_partition, strict=True))
        return list(zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True))

    def fragments(self) -> dict[str, Fragment]:
        names: dict[Any, str] = {p: name for name, p in self.module.named_parameters()}
        fragments = {}
        for parameters, flat in self.partitions():
            sources = {"model": flat.detach(), **{kind: self.optimizer.state[flat][kind] for kind in self.moments}}
            start = 0
            for p in parameters:
                if self.stage == 3:
                    share = p.partition_numel()
                    offset, at = share * self.rank, start
                    count = min(share, p.ds_numel - offset)
                    start += share
                elif p._hp_mapping is None:
                    continue
                else:
                    offset = p._hp_mapping.lp_fragment_address.start
                    at, count = p._hp_mapping.hp_fragment_address.start, p._hp_mapping.hp_fragment_address.numel
                if count > 0:
                    parts = {kind: source[at : at + count] for kind, source in sources.items()}
                    fragments[names[p]] = Fragment(offset, parts)
        return fragments

    def counters(self) -> list[Tensor]:
        return [state["step"] for state in self.optimizer.state.values()]

    def refresh(self) -> None:
        zero = self.zero
        if self.stage < 3:
            zero.update_lp_params()
            return
        zero._partition_all_parameters()
        for group in range(len(zero.fp16_groups)):
            zero._reassign_or_swap_out_partitioned_parameters(group)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)


class TrainingState:
    """The training state: weights, buffers, moments, counters and the loss scale.

    Args:
        module: the module that is trained, on its device.
        layout: finds weights and moments on this rank.
        frozen: CPU copies of the parameters that are not trained, by name, in their original precision.
        scalars: further () tensors of the optimizer to save, by name.
        process: this process.
    """

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        frozen: dict[str, Tensor],
        scalars: Mapping[str, Tensor],
        process: Process,
    ):
        self.module, self.layout, self.process = module, layout, process
        self._frozen, self._scalars = frozen, scalars
        self._kinds = ("model", *layout.moments)

    def local_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, flat fp32 weights) of each parameter, or of the part that this rank updates."""
        for name, fragment in self.layout.fragments().items():
            yield name, fragment.tensors["model"]

    def buffers(self) -> dict[str, Tensor]:
        """Returns the buffers that checkpoints hold, by name."""
        kept = self.module.state_dict(keep_vars=True).keys()
        return {name: buffer for name, buffer in self.module.named_buffers() if name in kept}

    def state_dict(self, alone: bool = False) -> State:
        """Collects the state, whole and by parameter name.

        Collective, unless `alone` is True.

        Args:
            alone: True returns the state on this process, whatever its rank. Allowed at ZeRO stage 0, or in a run of
                one process.

        Returns:
            On rank 0, CPU tensors. "model": fp32 masters of trained parameters, and unchanged frozen parameters and
            buffers. One group for each moment of the optimizer, with a tensor for each trained parameter. "scalars":
            optimizer_step, and for fp16 loss_scale and loss_scale_growth. On other ranks, an empty dict.
        """
        collects = alone or self.process.rank == 0
        state: State = {kind: {} for kind in self._kinds}
        fragments = self.layout.fragments()
        for name, shape in self._trained().items():
            for kind in self._kinds:
                # Bits are summed as integers: a sum of floats would turn -0.0 into 0.0.
                whole = torch.zeros(shape.numel(), dtype=torch.int32, device=self.process.device)
                if name in fragments and (collects or self.layout.sharded):
                    offset, tensors = fragments[name]
                    whole[offset : offset + tensors[kind].numel()] = tensors[kind].view(torch.int32)
                if self.layout.sharded and self.process.world > 1:
                    dist.reduce(whole, 0)
                if collects:
                    state[kind][name] = whole.view(torch.float32).view(shape).to("cpu", copy=True)
        if not collects:
            return {}
        untrained = self._frozen | self.buffers()
        state["model"] |= {name: tensor.detach().to("cpu", copy=True) for name, tensor in untrained.items()}
        state["scalars"] = {"optimizer_step": self.layout.counters()[0].to("cpu", torch.int64, copy=True)}
        state["scalars"] |= {name: scalar.to("cpu", copy=True) for name, scalar in self._scalars.items()}
        return state

    def load_state_dict(self, state: State) -> None:
        """Continues from a state of any ZeRO stage, precision and number of processes. Collective.

        Args:
            state: result of `state_dict` on rank 0. Other ranks ignore the argument, and receive their part from rank
                0.

        Raises:
            ValueError: rank 0's state does not fit this module. Raised on every rank.
        """
        trained, untrained = self._trained(), self._untrained()
        shapes = {**trained, **{name: _shape(tensor) for name, tensor in untrained.items()}}
        process, first = self.process, self.process.rank == 0
        problems = self._misfits(state, shapes, trained) if first else []
        if process.broadcast_number(len(problems)):
            raise ValueError("; ".join(problems[:5]) or "rank 0 refused the state; its message says why")
        fragments = self.layout.fragments()
        for kind in self._kinds:
            for name, shape in trained.items():
                whole = process.broadcast(state[kind][name] if first else None, shape, torch.float32).view(-1)
                if name in fragments:
                    offset, tensors = fragments[name]
                    tensors[kind].copy_(whole[offset : offset + tensors[kind].numel()])
        for name, tensor in untrained.items():
            whole = process.broadcast(state["model"][name] if first else None, shapes[name], tensor.dtype)
            with _whole(tensor):
                tensor.detach().copy_(whole)
            if first and name in self._frozen:
                self._frozen[name] = state["model"][name]
        scalars = state["scalars"] if first else {}
        step = process.broadcast(scalars.get("optimizer_step"), torch.Size(), torch.int64)
        for counter in self.layout.counters():
            counter.copy_(step)
        for name, scalar in self._scalars.items():
            scalar.copy_(process.broadcast(scalars.get(name, scalar), scalar.shape, scalar.dtype))
        self.layout.refresh()

    def _trained(self) -> dict[str, torch.Size]:
        return {name: _shape(p) for name, p in self.module.named_parameters() if p.requires_grad}

    def _untrained(self) -> dict[str, Tensor]:
        frozen = {name: p for name, p in self.module.named_parameters() if not p.requires_grad}
        return {**frozen, **self.buffers()}

    def _misfits(self, state: State, shapes: dict[str, torch.Size], trained: dict[str, torch.Size]) -> list[str]:
        """Returns the differences between a state and this module.

        Args:
            state: the state to load.
            shapes: shape of every tensor of the model.
            trained: shape of every trained parameter.
        """
        problems = []
        for kind in self._kinds:
            expected, found = (shapes if kind == "model" else trained), state.get(kind, {})
            problems += [f"{kind} lacks {name}" for name in expected if name not in found]
            problems += [
                f"{kind} has {name}, which this model does not train" for name in found if name not in expected
            ]
            problems += [
                f"{kind} of {name} has shape {tuple(found[name].shape)}, expected {tuple(shape)}"
                for name, shape in expected.items()
                if name in found and found[name].shape != shape
            ]
        scalars = state.get("scalars", {})
        if "optimizer_step" not in scalars:
            problems.append("scalars lacks optimizer_step")
        return problems + [f"scalars: {n} is no number" for n, value in scalars.items() if value.numel() != 1]


def _shape(tensor: Tensor) -> torch.Size:
    """Returns the full shape of a tensor, also of a parameter that ZeRO stage 3 has partitioned."""
    return getattr(tensor, "ds_shape", tensor.shape)


def _whole(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Gathers a parameter inside the context, at ZeRO stage 3.

    Afterwards all ranks have the values that rank 0 writes.
    """
    if not hasattr(tensor, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([tensor], modifier_rank=0)
