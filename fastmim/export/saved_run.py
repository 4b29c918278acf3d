"""Saved run: the newest usable checkpoint of a run folder, and its config.

The folder may come from a stranger.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .. import recipe
from ..config.base import Config, Experiment
from ..config.json_form import from_json
from ..host.terminal import shown
from ..run import checkpoint
from .model_outline import check_fits

_KINDS = {
    "Config": "pre-training",
    "Finetune": "fine-tuning",
    "Probe": "probing",
    "Detect": "detection",
    "Segment": "segmentation",
}


def open_run(run: Path, field: str) -> tuple[Experiment, checkpoint.LoadedCheckpoint]:
    """Returns the config and the newest intact checkpoint of a run whose weights fit their config.

    Args:
        run: the run folder.
        field: the setting that named the folder, for messages.

    Raises:
        ValueError: there is no checkpoint.
        checkpoint.FolderError: no checkpoint can be used; the message says why.
    """
    loaded = open_weights(run, field, lambda loaded: check_fits(config_of(loaded), loaded.state))
    return config_of(loaded), loaded


def open_weights(
    run: Path, field: str, check: Callable[[checkpoint.LoadedCheckpoint], object] = lambda loaded: None
) -> checkpoint.LoadedCheckpoint:
    """Returns the newest intact checkpoint of a run of any kind.

    Args:
        run: the run folder.
        field: the setting that named the folder, for messages.
        check: raises ValueError for a checkpoint that cannot be used.

    Raises:
        ValueError: there is no checkpoint.
        checkpoint.FolderError: no checkpoint can be used; the message says why.
    """
    loaded = checkpoint.load(run / "checkpoints", check=check)
    if loaded is None:
        where = shown(run / "checkpoints")
        hint = "the folder that training printed as its run folder"
        if field == "run.init":
            hint = f"give --run.init RUN, {hint}, or start without with --run.init None"
        else:
            hint = f"give {hint}"
        raise ValueError(f"{field}: expected a run folder with checkpoints, found none in {where}; {hint}")
    return loaded


def open_pretraining(run: Path, field: str) -> tuple[Config, checkpoint.LoadedCheckpoint]:
    """Opens a pre-training run as `open_run` does.

    Raises:
        ValueError: as `open_run`, or the run is of another kind.
    """
    config, loaded = open_run(run, field)
    if not isinstance(config, Config):
        raise ValueError(
            f"{field} is a {kind_of(config)} run: expected a pre-training run, such as the run that it started from "
            "(its run.init)"
        )
    return config, loaded


def kind_of(config: Experiment) -> str:
    """Returns the kind of a config's run, to put before the word "run": "pre-training", "probing", ..."""
    name = type(config).__name__
    return _KINDS.get(name, name)


def check_pretrained(loaded: checkpoint.LoadedCheckpoint, run: Path) -> None:
    """Checks that a checkpoint, as a source of initial weights, comes from a pre-training run.

    Raises:
        ValueError: the checkpoint is of a run of another kind.
    """
    config = config_of(loaded)
    if not isinstance(config, Config):
        raise ValueError(
            f"run.init: {shown(run)} is a {kind_of(config)} run, and its weights do not fit here: give the "
            f"pre-training run that it started from ({shown(config.run.init or 'none')}), or an export of that run"
        )


def config_of(loaded: checkpoint.LoadedCheckpoint) -> Experiment:
    """Returns the config that a checkpoint holds.

    Raises:
        ValueError: the checkpoint holds no valid config; the message names the field.
    """
    stored = loaded.meta.get("config")
    if not isinstance(stored, dict):
        raise ValueError("state.json: meta.config: expected a dictionary")
    try:
        config = from_json(stored, recipe)
    except ValueError as error:
        raise ValueError(f"state.json: meta.config: {error}") from error
    if not isinstance(config, Experiment):
        raise ValueError(f"state.json: meta.config: expected a run's config, found a {type(config).__name__}")
    return config
