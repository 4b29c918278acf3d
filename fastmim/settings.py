"""What follows from a config before anything is built: batch split, precision, DeepSpeed's settings. Pure functions.

May import torch and config only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .config import Config, Train

OWNED = ("optimizer", "scheduler", "fp16", "amp", "torch_autocast")
"""Sections of DeepSpeed's settings that a user's file may not have: fastmim decides them."""


def batch_plan(train: Train, world: int) -> tuple[int, int]:
    """Splits the global batch: micro-batch x accumulation x processes = global batch.

    Returns: (images per process per forward, forwards per update).
    Raises:
        ValueError: no such split with the given numbers; names the nearest that work.
    """
    total, micro = train.global_batch, train.micro_batch
    unit = world * (micro or 1)
    if total % unit == 0:
        micro = micro or total // world
        return micro, total // (micro * world)
    below, above = total // unit * unit, (total // unit + 1) * unit
    choices = f"train.global_batch={above}" if below <= 0 else f"train.global_batch={below} or {above}"
    if micro and total % world == 0:
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
    zero: dict[str, Any] = {"stage": stage, "offload_optimizer": {"device": "cpu" if train.offload else "none"}}
    if stage and config.optim.algorithm != "adamw":
        raise ValueError(
            f"optim.algorithm={config.optim.algorithm} needs train.zero_stage=0, got {stage}: ZeRO updates flat "
            "parts of many parameters, with AdamW only (LAMB and LARS scale the step of each parameter by that "
            "parameter's norm, which is no part's); use zero_stage=0 or algorithm=adamw"
        )
    if train.offload:
        if stage == 0:
            raise ValueError(
                "train.offload needs train.zero_stage >= 1, got 0: stage 0 keeps the optimizer state whole"
            )
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
        # At stage 0 the optimizer casts weights and keeps masters; DeepSpeed then leaves it unwrapped.
        "bf16": {"enabled": precision == "bf16-master" and stage > 0, "check_grad_overflow": True},
    }
    if derived["bf16"]["enabled"]:
        derived["data_types"] = {"grad_accum_dtype": "fp32"}
    defaults: dict[str, Any] = {
        "communication_data_type": "fp32",
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
