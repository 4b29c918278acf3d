"""Pure functions that derive batch split, precision and DeepSpeed's settings from a config."""

from __future__ import annotations

from typing import Any

import torch

from ..config.base import Experiment, Train
from . import deepspeed_file


def batch_plan(train: Train, world: int) -> tuple[int, int]:
    """Splits the global batch into micro-batch x accumulation x processes.

    Args:
        train: settings with the global batch, and the micro-batch if it is given.
        world: number of processes.

    Returns:
        (images per process per forward, forwards per update).

    Raises:
        ValueError: the global batch cannot be split in this way; the message names the nearest numbers that work.
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
    """Returns the arithmetic of a run: `train.precision`, with "auto" resolved.

    "auto" is autocast on a GPU and on CPUs with bf16 matrix instructions, else fp32.

    Raises:
        ValueError: the precision is fp16, and the ZeRO stage is 1 or higher.
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


def deepspeed_config(config: Experiment, world: int, precision: str) -> dict[str, Any]:
    """Returns DeepSpeed's settings: derived from the config, and merged with `train.deepspeed`.

    Args:
        config: config of the run.
        world: number of processes.
        precision: result of `resolve_precision`.

    Raises:
        ValueError: settings do not fit each other, or the file is refused; see `deepspeed_file.read`.
    """
    train = config.train
    micro, accumulation = batch_plan(train, world)
    stage = train.zero_stage
    zero: dict[str, Any] = {"stage": stage, "offload_optimizer": {"device": "cpu" if train.offload else "none"}}
    if stage and config.optim.algorithm != "adamw":
        raise ValueError(
            f"optim.algorithm={config.optim.algorithm} needs train.zero_stage=0, got {stage}: ZeRO updates flat "
            "parts of many parameters, with AdamW only (LAMB and LARS scale the step of each parameter by the norm "
            "of the whole parameter); use zero_stage=0 or algorithm=adamw"
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
        # At stage 0 fastmim's own optimizer clips.
        "gradient_clipping": (config.optim.clip or 0.0) if stage else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # At stage 0 fastmim casts weights and keeps masters. DeepSpeed then does not wrap the optimizer.
        "bf16": {"enabled": precision == "bf16-master" and stage > 0, "check_grad_overflow": True},
    }
    if derived["bf16"]["enabled"]:
        derived["data_types"] = {"grad_accum_dtype": "fp32"}
    defaults: dict[str, Any] = {
        "communication_data_type": "fp32",
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # DeepSpeed would wait for the device at every step
    }
    settings = {**defaults, **derived}
    if train.deepspeed is not None:
        # The file is compared with the config, also if fastmim does the work and DeepSpeed has other settings.
        decided = dict.fromkeys(deepspeed_file.DECIDED) | {
            **{key: derived[key] for key in derived if key in deepspeed_file.DECIDED},
            "gradient_clipping": config.optim.clip or 0.0,
            "bf16.enabled": precision == "bf16-master",
            "bf16.check_grad_overflow": True,
            "fp16.enabled": precision == "autocast-fp16",
            "torch_autocast.enabled": precision == "autocast",
            "data_types.grad_accum_dtype": "fp32",
            "optimizer.type": config.optim.algorithm,
            "zero_optimization.stage": stage,
            "zero_optimization.offload_optimizer.device": "cpu" if train.offload else "none",
            "zero_optimization.offload_param.device": "none",
        }
        for key, value in deepspeed_file.read(train.deepspeed, decided).items():
            *sections, name = key.split(".")
            section = settings
            for part in sections:
                section = section.setdefault(part, {})
            section[name] = value
    return settings
