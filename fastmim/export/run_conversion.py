"""Conversion of official checkpoints to run folders and back (`fastmim convert`)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..config.base import Config
from ..config.config_file import load
from ..config.json_form import to_json
from ..convert import official_weights
from ..host.terminal import shell_word, shown
from ..model.build import build
from ..run import checkpoint
from .model_outline import LARGEST_SIDE, outline
from .saved_run import open_pretraining


def convert_to_run(file: Path, run: Path, config_file: Path | None = None, size: tuple[int, int] | None = None) -> str:
    """Writes a run folder with the weights of an official checkpoint.

    Args:
        file: the checkpoint.
        run: folder to write.
        config_file: configuration of the model; None = the official configuration, with sizes taken from the file.
        size: height and width of the images, pixels; None = the size in the configuration.

    Returns:
        Lines for the user that account for every tensor.

    Raises:
        ValueError: the file is no known checkpoint or does not fit the configuration, or the folder is in use.
        OSError: the folder cannot be written.
    """
    if size and max(size) > LARGEST_SIDE:
        raise ValueError(f"--size: expected sides of at most {LARGEST_SIDE} pixels, got {size[0]} {size[1]}")
    if os.path.lexists(run) and not run.is_dir():
        kind = "a file" if run.exists() else "a link that leads nowhere"
        raise ValueError(f"{shown(run)}: expected a run folder to write, found {kind}: fastmim convert FILE RUN")
    if os.path.lexists(run / "checkpoints"):
        raise ValueError(f"{shown(run)} holds checkpoints already, which are never replaced: choose another folder")
    found = official_weights.open_official(file)
    try:
        config = _load_config(config_file) if config_file else official_weights.infer_config(found.format, found.state)
        if size:
            config = replace(config, data=replace(config.data, size=size))
        if not config_file:
            outline(config, found.state)
        mim = build(config)
        state, report = official_weights.to_ours(found.format, found.state, mim)
    except ValueError as error:
        raise ValueError(f"{shown(file)}: {error}") from error
    config = replace(config, run=replace(config.run, dir=str(run)))
    try:
        checkpoint.save(
            run / "checkpoints", 0, {"model": state}, {"config": to_json(config), "official": found.format.name}, keep=1
        )
    except checkpoint.CheckpointError as error:
        raise OSError(error) from error
    lines = report.lines("not in the file, so initialised", "in the file, but not in this model")
    if not config_file:
        lines.append(f"sizes, from the file's shapes: {config.encoder}, {config.decoder}, data.size={config.data.size}")
    lines += [*found.notes, f"{shown(run)}: train from it with --run.init {shell_word(run)} --run.dir OTHER"]
    return "\n".join(lines)


def _load_config(file: Path) -> Config:
    config = load(file)
    if not isinstance(config, Config):
        raise ValueError(f"--config: expected a pre-training configuration, got a {type(config).__name__}")
    return config


def convert_to_official(run: Path, file: Path, name: str | None = None, overwrite: bool = False) -> str:
    """Writes an official checkpoint with the weights of a run.

    Args:
        run: the run folder.
        file: checkpoint to write.
        name: part of the format's name; None = the format that the weights came from, or the only format that fits.
        overwrite: True = replace an existing file.

    Returns:
        Lines for the user that account for every tensor.

    Raises:
        ValueError: the folder is no pre-training run, no format fits, or the file exists.
    """
    if file.is_dir():
        raise ValueError(f"{shown(file)}: expected a .pth file to write, found a folder")
    if os.path.lexists(file) and not overwrite:
        raise ValueError(
            f"{shown(file)} exists; --overwrite replaces it. To turn it into a run folder, name it first: "
            "fastmim convert FILE RUN"
        )
    config, loaded = open_pretraining(run, shown(run))
    mim = build(config)
    mim.load_state_dict(loaded.state["model"])
    fmt = official_weights.choose_format(mim, name, loaded.meta.get("official"))
    state, report = official_weights.to_official(fmt, mim)
    official_weights.write_official(file, fmt.container, state)
    lines = report.lines("", "without a place in the file, so lost")
    held = f"{shown(file)}: a checkpoint file with {len(state)} tensors under {fmt.container!r}"
    return "\n".join([*lines, f"{held}; optimizer state, schedule and epoch are not converted"])
