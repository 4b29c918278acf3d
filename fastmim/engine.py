"""The training engine: process set-up, DeepSpeed's settings, one optimizer update, and its state by parameter name.

The only module that imports deepspeed. May import torch, deepspeed, config and optim.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import optim
from .config import Config, Train

OWNED = ("optimizer", "scheduler", "fp16", "amp", "torch_autocast")
"""Sections of DeepSpeed's settings that a user's file may not have: fastmim decides them."""


@dataclass(frozen=True)
class Process:
    """This process's place in the run."""

    rank: int
    world: int
    local_rank: int
    device: torch.device


@dataclass(frozen=True)
class StepResult:
    """What one update gave, as () tensors on the device: reading them waits for the device.

    loss: fp32 mean over this rank's micro-batches. grad_norm: fp32 global norm before clipping (inf or NaN if skipped).
    skipped: bool, whether a non-finite loss or gradient, on any rank, made every rank leave its parameters alone.
    """

    loss: Tensor
    grad_norm: Tensor
    skipped: Tensor


def init_distributed(device: str = "auto") -> Process:
    """Joins the processes of the launcher (`deepspeed`, `torchrun`, or RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
    MASTER_PORT in the environment), or makes a run of one process when there is none.

    Args:
        device: "auto" (a GPU if there is one), "cpu" (gloo) or "cuda" (nccl).
    Raises:
        ValueError: "cuda" was asked for and there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("train.device is cuda, but torch sees no GPU: use train.device=cpu or auto")
    cuda = device != "cpu" and torch.cuda.is_available()
    os.environ["DS_ACCELERATOR"] = "cuda" if cuda else "cpu"  # DeepSpeed reads it once, on import
    import deepspeed

    # DeepSpeed would compile a shared-memory collective here (a minute, and a compiler), which only inference uses.
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if not launched:  # DeepSpeed looks these up, and searches for MPI when they are missing
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    if cuda:
        torch.cuda.set_device(local_rank)
    elif world > 1 and "OMP_NUM_THREADS" not in os.environ:
        local_world = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world)
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world))
    if not dist.is_initialized():
        # One process keeps its store in memory: no port that another run could hold.
        store = {} if launched else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", **store)
    deepspeed.init_distributed("nccl" if cuda else "gloo", verbose=False)
    return Process(rank, world, local_rank, torch.device("cuda", local_rank) if cuda else torch.device("cpu"))


def batch_plan(train: Train, world: int) -> tuple[int, int]:
    """Splits the global batch: micro-batch x accumulation x processes = global batch.

    Returns: (images per process per forward, forwards per update).
    Raises:
        ValueError: no such split with the given numbers; names the nearest that work.
    """
    total, micro = train.global_batch, train.micro_batch
    unit = world * (micro or 1)
    if total % unit == 0 and total > 0:
        return (micro or total // world), total // unit
    below, above = total // unit * unit, (total // unit + 1) * unit
    choices = f"train.global_batch={above}" if below <= 0 else f"train.global_batch={below} or {above}"
    if micro and total > 0 and total % world == 0:
        share = total // world
        divisors = [n for n in range(1, share + 1) if share % n == 0]
        choices += f", or train.micro_batch={min(divisors, key=lambda n: abs(n - micro))}"
    given = f"train.global_batch={total} is not a multiple of "
    given += f"train.micro_batch={micro} x {world} processes" if micro else f"{world} processes"
    raise ValueError(f"{given} = {unit}: use {choices}")


def resolve_precision(train: Train, device: torch.device) -> str:
    """The arithmetic that "auto" stands for: autocast on a GPU and on CPUs with bf16 matrix instructions, else fp32.

    Raises:
        ValueError: fp16 with ZeRO >= 1.
    """
    if train.precision == "autocast-fp16" and train.zero_stage:
        raise ValueError(
            f"train.precision=autocast-fp16 needs train.zero_stage=0, got {train.zero_stage}: the loss scale lives in "
            "the optimizer of stage 0; use precision=autocast (bf16, no loss scale) or zero_stage=0"
        )
    if train.precision != "auto":
        return train.precision
    bf16_cpu = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "autocast" if device.type == "cuda" or bf16_cpu else "fp32"


def _merge(derived: dict, user: dict, path: str, conflicts: list[str]) -> dict:
    merged = dict(derived)
    for key, value in user.items():
        if isinstance(value, dict) and isinstance(derived.get(key, {}), dict):
            merged[key] = _merge(derived.get(key, {}), value, f"{path}{key}.", conflicts)
        elif key in derived and derived[key] != value:
            conflicts.append(f"{path}{key} is {json.dumps(derived[key])} from the config, {json.dumps(value)} there")
        else:
            merged[key] = value
    return merged


def deepspeed_config(config: Config, world: int, precision: str) -> dict[str, Any]:
    """DeepSpeed's settings: derived from the config, then the user's own file (`train.deepspeed`) merged in.

    Args:
        precision: as `resolve_precision` gave it.
    Raises:
        ValueError: the file cannot be read, or sets something that the config decides to another value.
    """
    train = config.train
    micro, accumulation = batch_plan(train, world)
    stage = train.zero_stage
    zero: dict[str, Any] = {"stage": stage}
    if train.offload:
        if stage == 0:
            raise ValueError("train.offload needs train.zero_stage >= 1, got 0: stage 0 keeps the optimizer state whole")
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    derived: dict[str, Any] = {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        # At stage 0 the optimizer clips.
        "gradient_clipping": (config.optim.clip or 0.0) if stage else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # At stage 0 the weights are cast and their masters kept by the optimizer, so that DeepSpeed leaves it unwrapped.
        "bf16": {"enabled": precision == "bf16-master" and stage > 0, "check_grad_overflow": True},
    }
    if derived["bf16"]["enabled"]:
        derived["data_types"] = {"grad_accum_dtype": "fp32"}
    defaults: dict[str, Any] = {
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the device at every step
    }
    user: dict[str, Any] = {}
    if train.deepspeed is not None:
        try:
            user = json.loads(Path(train.deepspeed).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"train.deepspeed={train.deepspeed} is not a readable JSON file: {error}") from error
        if not isinstance(user, dict):
            raise ValueError(f"train.deepspeed={train.deepspeed} must hold a JSON object, got {type(user).__name__}")
    conflicts = [f"{key} is decided by the config" for key in OWNED if key in user]
    merged = _merge(derived, user, "", conflicts)
    if conflicts:
        raise ValueError(f"{train.deepspeed}: {'; '.join(conflicts)}. Change the config, or leave those keys out")
    return {**defaults, **merged}


class Autocast(nn.Module):
    """Runs a module under torch.autocast. (DeepSpeed switches off an autocast that surrounds its own forward.)"""

    def __init__(self, module: nn.Module, device_type: str, dtype: torch.dtype):
        super().__init__()
        self.module, self.device_type, self.dtype = module, device_type, dtype

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        with torch.autocast(self.device_type, self.dtype):
            return self.module(images, ids)


def step_seed(seed: int, step: int, rank: int, micro_step: int) -> int:
    """Seed of torch's generators for one forward: 64 bits of BLAKE2b over (seed, step, rank, micro-step)."""
    return int.from_bytes(
        hashlib.blake2b(struct.pack("<4q", seed, step, rank, micro_step), digest_size=8).digest(), "little"
    )


class Engine:
    """Trains one module: forward, backward, averaging over processes, clipping, update.

    `module(images, ids) -> ()` loss is moved to the device, and its parameters are cast to bf16 for "bf16-master".

    Attributes:
        module: the given module. (Its parameters are partitioned at ZeRO stage 3.)
        precision: the arithmetic in use, "auto" resolved.
        micro_batch, accumulation: images per process per forward; forwards per update.
        settings: the dict that DeepSpeed was given.

    Raises:
        ValueError: settings that do not fit; see `batch_plan`, `resolve_precision`, `deepspeed_config`.
    """

    def __init__(self, module: nn.Module, config: Config, process: Process):
        import deepspeed

        self.module, self.config, self.process = module, config, process
        self.precision = resolve_precision(config.train, process.device)
        self.micro_batch, self.accumulation = batch_plan(config.train, process.world)
        self.settings = deepspeed_config(config, process.world, self.precision)
        self.stage = config.train.zero_stage
        module.to(process.device)
        if self.precision == "bf16-master" and self.stage == 0:
            for p in module.parameters():
                p.data = p.data.to(torch.bfloat16)
        if self.precision.startswith("autocast"):
            dtype = torch.float16 if self.precision == "autocast-fp16" else torch.bfloat16
            module = Autocast(module, process.device.type, dtype)
        groups = optim.parameter_groups(self.module, config.optim.weight_decay)
        betas, eps, clip = config.optim.betas, config.optim.eps, config.optim.clip
        if self.stage == 0:
            optimizer = optim.AdamW(groups, betas, eps, clip, loss_scaling=self.precision == "autocast-fp16")
        else:
            optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
        self.optimizer = optimizer
        self._deepspeed, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=self.settings)

    def train_step(self, step: int, lr: float, micro_batches: Iterable[tuple[Tensor, Tensor]]) -> StepResult:
        """One update from `accumulation` micro-batches of (images, ids). Collective.

        torch's generators are reseeded from (train.seed, step, rank, micro-step) before each forward, so drop path and
        its like need no saved state. Gradients are the mean over micro-batches and processes.

        Raises:
            ValueError: the number of micro-batches is not `accumulation`.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        total = torch.zeros((), device=self.process.device)
        count = 0
        for images, ids in micro_batches:
            if count == self.accumulation:
                raise ValueError(f"an update takes {self.accumulation} micro-batches, got more")
            torch.manual_seed(step_seed(self.config.train.seed, step, self.process.rank, count))
            images = images.to(self.process.device, non_blocking=True)
            loss = self._deepspeed(images, ids.to(self.process.device, non_blocking=True))
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
        return StepResult(total / self.accumulation, grad_norm, skipped)

    def reduce_mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes. Collective."""
        value = value.detach().clone()
        if self.process.world > 1:
            dist.all_reduce(value)
        return value / self.process.world
