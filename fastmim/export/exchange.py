"""Official checkpoints to run folders and back: what `fastmim convert` does. May import L3 and below, and convert."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..config.base import load, to_json
from ..convert import official_weights
from ..host.terminal import shell_word, shown
from ..model.build import build
from ..run import checkpoint
from ..tasks.model_outline import LARGEST_SIDE, outline
from ..tasks.saved_run import open_pretraining


def to_run(file: Path, run: Path, config_file: Path | None = None, size: tuple[int, int] | None = None) -> str:
    """Writes a run folder with the weights of an official checkpoint; returns lines that say what became of them.

    Args:
        config_file: configuration of the model; None = the official one, its sizes taken from the file.
        size: height and width of the images; None = the configuration's.

    Raises:
        ValueError: no known checkpoint, one that does not fit the configuration, or a folder that is in use.
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
        config = load(config_file) if config_file else official_weights.infer_config(found.format, found.state)
        if size:
            config = replace(config, data=replace(config.data, size=size))
        if not config_file:
            outline(config, found.state)
        mim = build(config)
        state, account = official_weights.to_ours(found.format, found.state, mim)
    except ValueError as error:
        raise ValueError(f"{shown(file)}: {error}") from error
    config = replace(config, run=replace(config.run, dir=str(run)))
    try:
        checkpoint.save(
            run / "checkpoints", 0, {"model": state}, {"config": to_json(config), "official": found.format.name}, keep=1
        )
    except checkpoint.CheckpointError as error:
        raise OSError(error) from error
    lines = account.lines("not in the file, so initialised", "in the file, but not in this model")
    if not config_file:
        lines.append(f"sizes, from the file's shapes: {config.encoder}, {config.decoder}, data.size={config.data.size}")
    lines += [*found.notes, f"{shown(run)}: train from it with --run.init {shell_word(run)} --run.dir OTHER"]
    return "\n".join(lines)


def to_official(run: Path, file: Path, name: str | None = None, overwrite: bool = False) -> str:
    """Writes an official checkpoint with the weights of a run; returns lines that say what became of them.

    Args:
        name: part of the format's name; None = the one that the weights came from, or the only one that fits.
        overwrite: replace a file that is there.

    Raises:
        ValueError: no pre-training run, no format that fits, or a file that is there.
    """
    if file.is_dir():
        raise ValueError(f"{shown(file)}: expected a .pth file to write, found a folder")
    if os.path.lexists(file) and not overwrite:
        raise ValueError(
            f"{shown(file)} is there already; --overwrite replaces it. To turn it into a run folder, name it first: "
            "fastmim convert FILE RUN"
        )
    config, loaded = open_pretraining(run, shown(run))
    mim = build(config)
    mim.load_state_dict(loaded.state["model"])
    fmt = official_weights.choose_format(mim, name, loaded.meta.get("official"))
    state, account = official_weights.to_official(fmt, mim)
    official_weights.write_official(file, fmt.container, state)
    lines = account.lines("", "without a place in the file, so lost")
    held = f"{shown(file)}: a checkpoint file with {len(state)} tensors under {fmt.container!r}"
    return "\n".join([*lines, f"{held}; optimizer state, schedule and epoch stay behind"])
