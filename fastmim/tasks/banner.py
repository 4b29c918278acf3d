"""Start-up text of a run: facts about device, data, model and schedule, and warnings about settings."""

from __future__ import annotations

import torch

import fastmim_kernels

from ..data.doctor import first_look
from ..data.loader import limits_of
from ..model.encoders.batchnorm import BatchNorm
from . import setting_warnings
from .task import Task


def describe(task: Task) -> dict[str, str]:
    """Returns the start-up lines that describe a run, by name."""
    config, process, engine = task.config, task.process, task.engine
    train, device = config.train, process.device.type
    name = torch.cuda.get_device_name(process.device) if device == "cuda" else "CPU"
    threads = "" if device == "cuda" else f", {torch.get_num_threads()} threads each"
    facts = task.facts()
    facts["images"] = "; ".join([facts["images"], *task.manifest.remarks()])
    if warnings := first_look(task.manifest, limits_of(config.data)):
        facts["warning"] = "; ".join(warnings)
    norms = {m.describe(engine.micro_batch, process.world, device) for m in _batch_norms(task)}
    if norms:
        facts["batch norm"] = "; ".join(norms)
    return {
        "run folder": config.run.dir,
        **facts,
        "devices": f"{process.world} x {name}{threads}",
        "precision": engine.precision,
        "ZeRO": f"stage {train.zero_stage}" + (", optimizer state in host memory" if train.offload else ""),
        "kernels": kernels(device),
        "decoding": task.loader.describe(),
        "global batch": f"{train.global_batch} = {engine.micro_batch} images x {engine.accumulation} micro-steps "
        f"x {process.world} processes",
        "learning rate": learning_rate(task),
        "updates": f"{task.total}",
    }


def warnings(task: Task) -> list[str]:
    """Returns a sentence for each setting of a run that looks like a mistake."""
    room = (
        setting_warnings.disk_warnings(task.folder, task.parameters, task.config.run.keep)
        if task.process.rank == 0
        else []
    )
    return [*setting_warnings.setting_warnings(task.config, task.images, task.total), *room]


def learning_rate(task: Task) -> str:
    """Describes the learning rate of a run: the peak, the warm-up, and absolute rates above the peak."""
    optim, train = task.config.optim, task.config.train
    peak = optim.blr * train.global_batch / optim.lr_batch
    highest = setting_warnings.highest_rate(task.config, task.total)
    rate = f"{peak:.3g} at its peak"
    if highest <= 0.9 * peak:
        rate = f"{highest:.3g} at most, never its peak of {peak:.3g}"
    above = [f"optim.{name}" for name in ("warmup_lr", "min_lr") if getattr(optim, name) > peak]
    follow, them = ("which does", "it") if len(above) == 1 else ("which do", "them")
    return (
        f"{rate} (blr {optim.blr:g} x {train.global_batch} / {optim.lr_batch}), "
        f"{optim.warmup_epochs:g} of {train.epochs:g} epochs of warm-up"
        + (f"; below {' and '.join(above)}, {follow} not follow the batch size: lower {them}" if above else "")
    )


def kernels(device: str) -> str:
    """Names the implementation that most ops use, and the ops that use another implementation.

    Args:
        device: "cpu" or "cuda".
    """
    words = {"cpp": "C++", "triton": "Triton", "reference": "plain torch"}
    ops: dict[str, list[str]] = {}
    for op, by in fastmim_kernels.backends().items():
        ops.setdefault(by[device], []).append(op)
    most, *others = sorted(ops, key=lambda by: -len(ops[by]))
    rest = "; ".join(f"{words.get(by, by)} for {', '.join(ops[by])}" for by in others)
    return words.get(most, most) + (f", except {rest}" if rest else " for all")


def _batch_norms(task: Task) -> list[BatchNorm]:
    return [module for module in task.module.modules() if isinstance(module, BatchNorm)]
