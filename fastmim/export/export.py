"""Export of a trained encoder to a folder for another library, checked before it takes its place."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..config.base import Experiment
from ..host.files import open_regular, read_bytes, write
from ..host.json_files import parse_json
from ..host.terminal import shown
from ..tokens import Mask
from .detection_formats import DETECTRON2, MMDET, MMSEG
from .export_format import ExportFormat, describe_difference
from .load import check_kind, from_run
from .model_card import LARGEST, compose_card
from .onnx_format import ONNX
from .timm_format import HUB, TIMM
from .trained_encoder import TrainedEncoder

Name = Literal["timm", "mmdet", "mmseg", "detectron2", "onnx", "hub-folder"]
FORMATS: dict[Name, ExportFormat] = {
    "timm": TIMM,
    "mmdet": MMDET,
    "mmseg": MMSEG,
    "detectron2": DETECTRON2,
    "onnx": ONNX,
    "hub-folder": HUB,
}
"""Formats by the value of --to."""
ELSEWHERE = "name another folder with --out"
"""Advice in errors if the folder cannot be used."""
CARD = "README.md"
"""Name of the model card."""
RECEIPT = re.compile(rb"<!-- fastmim export, SHA-256 of its files: (\{[^\n]*\}) -->\n\Z")
"""Last line of the card of an unchanged export, with the digests of all files."""


def export_encoder(
    config: Experiment,
    state: Mapping[str, Tensor],
    folder: Path,
    to: Name = "timm",
    run: Path | None = None,
    step: int = 0,
    elsewhere: str = ELSEWHERE,
) -> Path:
    """Writes the encoder, code that uses it and a model card, and checks the written copy by loading it.

    A temporary folder beside `folder` is written and checked first, then takes its place. A failed or interrupted
    export leaves no files, and does not change an earlier export.

    Args:
        config: config of the run.
        state: fp32 tensors of the run's module by name, as in a checkpoint; moving averages if the run keeps them.
        folder: folder to write.
        to: format of the export.
        run: the run folder, whose records the card summarises; None = the card has the config only.
        step: updates done, for the card; 0 = the card does not say.
        elsewhere: advice in errors if the folder cannot be used.

    Raises:
        ValueError: `folder` cannot be written or holds anything except an unchanged export, or the library has no such
            encoder.
        RuntimeError: the features of the written copy, or of the forward pass in training, differ from the encoder's.
    """
    fmt = FORMATS[to]
    try:
        target = resolve_target(folder, elsewhere)
        trained = from_run(config, state)
        check_encoder(trained, to)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-export-", dir=target.parent) as beside:
            new = Path(beside) / "new"
            new.mkdir()
            notes = fmt.write(trained, new)
            if problem := _find_problem(trained, fmt, new):
                raise RuntimeError(
                    f"{shown(folder)} was not written: {problem}. Please report it, with the version of timm, "
                    f"{version('timm')}"
                )
            snippet = fmt.snippet(trained, str(folder))
            write(new / snippet.file, snippet.code)
            _write_card(new, compose_card(trained, check_kind(config), run, step, to, snippet, notes) + "\n")
            _take_place(new, target, Path(beside) / "old")
    except OSError as error:
        raise ValueError(
            f"{shown(folder)}: the export cannot be written there ({error.strerror or shown(str(error))}), and nothing "
            f"was changed: make room, or {elsewhere}"
        ) from error
    return folder


def resolve_target(folder: Path, elsewhere: str = ELSEWHERE) -> Path:
    """Returns the folder that an export will replace: `folder`, or the target of the link `folder`.

    Args:
        folder: folder to write.
        elsewhere: advice in errors.

    Raises:
        ValueError: the path holds anything except an empty folder or an unchanged export.
        OSError: the path cannot be read.
    """
    try:
        target = folder.resolve()
    except RuntimeError as error:  # pathlib's error for links that lead to each other
        raise ValueError(f"{shown(folder)}: expected a folder, found links that lead to each other") from error
    hint = f"move it away, or {elsewhere}"
    if any("\udc80" <= character <= "\udcff" for character in str(target)):
        raise ValueError(f"{shown(folder)}: expected a path in UTF-8, as other libraries open no other: {elsewhere}")
    there = next(path for path in (target, *target.parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{shown(folder)}: expected a folder to write, but {shown(there)} is a file: {hint}")
    if target.exists() and Path.cwd().is_relative_to(target):
        raise ValueError(
            f"{shown(folder)}: expected another folder than the current one, which would be replaced: change to a "
            "folder outside first"
        )
    if not target.exists() or not (found := sorted(path.name for path in target.iterdir())):
        return target
    known = _receipt(target)
    for name in found:
        if name not in known:
            earlier = "an earlier export" if known else "an earlier export or an empty folder"
            raise ValueError(f"{shown(folder)}: expected {earlier}, found '{shown(name)}' there: {hint}")
        if (digest := _digest(target / name)) is None or digest != known[name]:
            raise ValueError(f"{shown(folder)}: {shown(name)} was changed since it was exported: {hint}")
    return target


def _write_card(folder: Path, text: str) -> None:
    """Writes the card, with a receipt of all other files of the folder."""
    digests = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    digests[CARD] = hashlib.sha256(text.encode()).hexdigest()
    write(folder / CARD, f"{text}<!-- fastmim export, SHA-256 of its files: {json.dumps(digests)} -->\n")


def _receipt(folder: Path) -> dict[str, str]:
    """Returns the digests in the card of an export, by file name; empty if the folder has no such card."""
    try:
        found = RECEIPT.search(read_bytes(folder / CARD, LARGEST))
        digests = parse_json(found[1]) if found else {}
    except (OSError, ValueError):
        return {}
    return digests if isinstance(digests, dict) else {}


def _digest(path: Path) -> str | None:
    """Returns the SHA-256 of a file, of the card without its receipt, or None if it is not a regular file."""
    if path.is_symlink():
        return None
    try:
        with open_regular(path) as file:
            if path.name == CARD:
                return hashlib.sha256(RECEIPT.sub(b"", file.read(LARGEST))).hexdigest()
            digest = hashlib.sha256()
            while chunk := file.read(LARGEST):
                digest.update(chunk)
            return digest.hexdigest()
    except ValueError:
        return None


def _take_place(new: Path, target: Path, old: Path) -> None:
    """Moves a new folder into the place of the target, and moves the old folder back if that fails."""
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise


def check_encoder(trained: TrainedEncoder, to: Name) -> None:
    """Checks that a format has a place for the encoder.

    Raises:
        ValueError: the library has no such encoder; the message names the formats that have a place.
    """
    if reason := _misfit(trained, to):
        possible = ", ".join(name for name in FORMATS if not _misfit(trained, name))
        raise ValueError(f"--to {to}: {reason}; this encoder can go --to {possible or 'nothing'}")


def _misfit(trained: TrainedEncoder, to: Name) -> str | None:
    try:
        FORMATS[to].check(trained)
    except ValueError as error:
        return str(error)
    return None


@torch.no_grad()
def _find_problem(trained: TrainedEncoder, fmt: ExportFormat, folder: Path) -> str | None:
    """Compares an export with the trained encoder; returns the difference in words, or None.

    Noise images go through the loaded copy, through `features`, and through the forward pass of training with nothing
    hidden. The last comparison is left out for classifiers. It is also left out for encoders that read the compact grid
    of uniform masks, which cannot hold a whole image.
    """
    encoder = trained.model.encoder
    shape = (2, *trained.test_size, trained.image.channels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = trained.normalize(images)
    if problem := fmt.find_problem(trained, folder, pixels):
        return problem
    compact = trained.masking.uniform and encoder.reads == "visible" and encoder.merge > 1
    if compact or trained.head is not None:
        return None
    cells = encoder.grid[0] * encoder.grid[1]
    everything = Mask(torch.arange(cells).expand(2, -1), cells, encoder.grid)
    if found := describe_difference(trained.model.tokens(pixels), encoder(images, everything)):
        return f"training's forward gives other features ({found})"
    return None
