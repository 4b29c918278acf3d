"""Warnings before the first update about settings that are valid but make a run meaningless."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..config.base import Config, Experiment
from ..config.classify import Finetune
from ..engine.optim import learning_rate

_FEW = 10  # updates that are too few to learn anything
_LOOKS = 1000  # updates at which the learning rate schedule is sampled


def setting_warnings(config: Experiment, images: int, total: int) -> list[str]:
    """Returns one sentence for each setting that looks like a mistake, with advice.

    Args:
        config: the run's config.
        images: training images.
        total: updates in the run.
    """
    return [
        *_batch_warnings(config, images, total),
        *_rate_warnings(config, total),
        *_held_out_warnings(config, images, total),
        *_run_warnings(config, total),
    ]


def disk_warnings(folder: Path, parameters: int, keep: int) -> list[str]:
    """Warns if the disk of a run folder has no room for the checkpoints.

    Args:
        folder: the run folder.
        parameters: trained parameters. A checkpoint holds each with two moments in fp32.
        keep: checkpoints kept, besides the checkpoint that is being written.
    """
    need, free = 12 * parameters * (keep + 1), shutil.disk_usage(folder).free
    if free >= need:
        return []
    return [
        f"run.dir has {free / 2**30:.1f} GiB free, and run.keep={keep} needs {need / 2**30:.1f} GiB for checkpoints: "
        "free some, lower run.keep, or choose another run.dir"
    ]


def highest_rate(config: Experiment, total: int) -> float:
    """Returns the highest learning rate of a run of `total` updates, among up to 1000 sampled updates."""
    steps = {round(i * (total - 1) / (_LOOKS - 1)) for i in range(_LOOKS)}
    epochs = (step * config.train.epochs / total for step in steps)
    return max(learning_rate(config.optim, config.train, epoch) for epoch in epochs)


def _batch_warnings(config: Experiment, images: int, total: int) -> list[str]:
    train, found = config.train, []
    if train.global_batch > images:
        found.append(
            f"train.global_batch={train.global_batch} is {train.global_batch / images:.3g} times the {images} training "
            f"images, so each update shows images several times; lower it to {_sensible_batch(images)} or less"
        )
    if total < _FEW:
        found.append(
            f"the run has {total} update{'s' * (total > 1)} (train.epochs={train.epochs:g} over {images} images with "
            f"train.global_batch={train.global_batch}), too few to learn; raise train.epochs or lower "
            "train.global_batch"
        )
    return found


def _sensible_batch(images: int) -> int:
    """Returns the largest power of two that is at most an eighth of the images, or 1."""
    return 2 ** max(0, (images // 8).bit_length() - 1)


def _rate_warnings(config: Experiment, total: int) -> list[str]:
    optim, train = config.optim, config.train
    highest = highest_rate(config, total)
    peak = optim.blr * train.global_batch / optim.lr_batch
    if highest == 0:
        if optim.blr == 0:
            cause = "optim.blr=0; set it above 0"
        else:
            cause = (
                f"none of the {total} updates is past the start of optim.warmup_epochs={optim.warmup_epochs:g}; set "
            )
            cause += "optim.warmup_epochs to 0, or raise train.epochs"
        return [f"the learning rate is 0 in the whole run, which learns nothing: {cause}"]
    if optim.warmup_epochs >= train.epochs and highest < peak:
        return [
            f"optim.warmup_epochs={optim.warmup_epochs:g} is not shorter than train.epochs={train.epochs:g}: the "
            f"learning rate ends at {highest:.3g} and never reaches its peak of {peak:.3g}; set optim.warmup_epochs to "
            f"{train.epochs / 20:.2g}, for example"
        ]
    if optim.schedule == "multistep" and min(optim.decay_epochs) >= train.epochs:
        return [
            f"optim.decay_epochs={optim.decay_epochs} start after train.epochs={train.epochs:g}: the learning rate is "
            "never lowered"
        ]
    return []


def _held_out_warnings(config: Experiment, images: int, total: int) -> list[str]:
    if not isinstance(config, Config):
        return []
    data, run, found = config.data, config.run, []
    if not data.held_out_root and data.held_out > images:
        found.append(
            f"data.held_out={data.held_out} leaves {images} images to train on, fewer than are held out; lower it"
        )
    if data.held_out and _FEW <= total < run.evaluate_every:
        found.append(
            f"run.evaluate_every={run.evaluate_every} is more than the {total} updates of the run: the held-out loss "
            "is measured once, at the end; lower it to see how the run develops"
        )
    return found


def _run_warnings(config: Experiment, total: int) -> list[str]:
    run, found = config.run, []
    if run.stop_after and run.stop_after > total:
        found.append(f"run.stop_after={run.stop_after} has no effect: the run ends after {total} updates")
    if isinstance(config, Finetune) and config.ema.decay and (left := config.ema.decay**total) > 0.5:
        shorter = 1 - 5 / total if total > 5 else 0.5
        found.append(
            f"ema.decay={config.ema.decay:g}: after {total} updates the averaged weights, which are tested, are still "
            f"{left:.0%} the initial weights; lower it to {shorter:.3g}, or set it to None"
        )
    return found
