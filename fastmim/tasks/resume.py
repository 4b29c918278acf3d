"""Resuming a run: the checkpoint to continue from, and the settings that may differ from its config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.base import Experiment
from ..config.json_form import to_json
from ..export.saved_run import config_of, kind_of
from ..host.terminal import shown
from ..run import checkpoint
from ..run.console import say
from .training_set import Origin

FREE = (
    *("run.", "optim.", "train."),
    *("data.root", "data.held_out_root", "data.annotations", "data.masks", "data.test", "data.stride"),
    *("data.loader", "data.bad_budget", "data.workers", "data.prefetch", "data.decode_memory", "data.decode_seconds"),
)
"""Beginnings of the names of settings that a continued run may change."""
FIXED = ("train.seed", "train.global_batch")
"""Settings that a continued run must not change although `FREE` covers them: they decide the samples."""


def refuse_checkpoints(folder: Path) -> None:
    """Checks that a folder holds no checkpoints.

    Raises:
        ValueError: there are checkpoints.
    """
    if checkpoint.steps(folder):
        raise ValueError(
            f"run.resume is False, but {shown(folder)} holds checkpoints: choose another run.dir, or resume"
        )


def newest(folder: Path, config: Experiment, origins: Mapping[str, Origin]) -> checkpoint.LoadedCheckpoint | None:
    """Returns the newest valid checkpoint of a run, or None; removes leftovers in the folder.

    Args:
        folder: folder of the checkpoints.
        config: config that the run continues with.
        origins: sources of samples and labels, by name.

    Raises:
        ValueError: the checkpoint is of another run or of converted weights, or samples, labels or model would change.
    """
    loaded = checkpoint.load(folder, check=config_of)
    if loaded is None:
        return None
    if loaded.step == 0:
        raise ValueError(
            f"{shown(loaded.path)} holds weights to start from: give its run folder as run.init, and another as run.dir"
        )
    stored = config_of(loaded)
    if type(stored) is not type(config):
        raise ValueError(
            f"run.dir: {shown(Path(config.run.dir))} holds a {kind_of(stored)} run, and this is a {kind_of(config)} "
            "run: choose another run.dir"
        )
    compare_origins(loaded, origins)
    compare_configs(stored, config)
    checkpoint.tidy(folder, loaded, config.run.keep)
    return loaded


def compare_origins(loaded: checkpoint.LoadedCheckpoint, origins: Mapping[str, Origin]) -> None:
    """Checks that images and labels have not changed since a checkpoint was saved.

    Raises:
        ValueError: images or labels have changed.
    """
    for name, (place, now) in origins.items():
        then = loaded.meta.get(name, now)  # an earlier version wrote the hash of the images only
        if then != now:
            raise ValueError(
                f"{shown(place)} has changed since {shown(loaded.path)} was saved ({name}: now {now[:12]}, then "
                f"{shown(str(then))[:12]}): the same samples would have other images or labels. Restore it, or "
                "start a new run"
            )


def compare_configs(stored: Experiment, config: Experiment) -> None:
    """Checks that a config continues the run of another one; prints the settings that change.

    Args:
        stored: config in the checkpoint.
        config: config that the run continues with.

    Raises:
        ValueError: samples, masks or model would change.
    """
    then, now = _leaves(to_json(stored)), _leaves(to_json(config))
    changed = [name for name in sorted(then | now) if then.get(name) != now.get(name)]
    if fixed := [name for name in changed if _is_fixed(name, then.get(name), now.get(name))]:
        words = ", ".join(
            f"{shown(name)[:100]} was {shown(str(then.get(name)))[:100]}, is now {now.get(name)}" for name in fixed[:4]
        )
        raise ValueError(f"the checkpoint is of another run: {words}. Use its values, or another run.dir")
    for name in changed:
        say(f"continued with {name} = {now.get(name)} (was {then.get(name)})")


def _is_fixed(name: str, then: Any, now: Any) -> bool:
    """True if a continued run must not change a setting from one value to another."""
    if name == "data.held_out_root":  # without it, data.root is split
        return None in (then, now)
    return name in FIXED or not name.startswith(FREE)


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Flattens a nested dict to {dotted name: leaf}."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: leaf for key, inner in value.items() for k, leaf in _leaves(inner, f"{name}.{key}".strip(".")).items()}
