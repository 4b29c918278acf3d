"""A trained encoder as a folder for other libraries; checked before it counts. May import L3 and below, and convert."""

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
from .card import LARGEST, card
from .frameworks import DETECTRON2, MMDET, MMSEG
from .layouts import HUB, TIMM, Layout, differs
from .load import from_run
from .onnx import ONNX
from .trained_encoder import TrainedEncoder

Name = Literal["timm", "mmdet", "mmseg", "detectron2", "onnx", "hub-folder"]
LAYOUTS: dict[Name, Layout] = {
    "timm": TIMM,
    "mmdet": MMDET,
    "mmseg": MMSEG,
    "detectron2": DETECTRON2,
    "onnx": ONNX,
    "hub-folder": HUB,
}
ELSEWHERE = "name another folder with --out"
CARD = "README.md"
RECEIPT = re.compile(rb"<!-- fastmim export, SHA-256 of its files: (\{[^\n]*\}) -->\n\Z")
"""Last line of the card. It tells an export from a folder of somebody else's, and from one that was edited since."""


def export_encoder(
    config: Experiment,
    state: Mapping[str, Tensor],
    folder: Path,
    to: Name = "timm",
    run: Path | None = None,
    step: int = 0,
    elsewhere: str = ELSEWHERE,
) -> Path:
    """Writes the encoder, how it is used, and a model card; and checks the copy by loading it.

    All of it is written and checked beside `folder` and then takes its place. So a failed or interrupted export leaves
    nothing behind, and an earlier one as it was.

    Args:
        state: fp32 tensors of the whole module by name, as checkpoints hold them; averaged ones where there are.
        run: the run's folder, for what the card says of it.
        step: updates done, for the card; 0 = not told.
        elsewhere: what errors advise where the folder cannot be used.

    Raises:
        ValueError: `folder` cannot be written or holds something that is not an unchanged export, or the library has no
            such encoder.
        RuntimeError: the copy does not give the same features, or training's forward gave others.
    """
    layout = LAYOUTS[to]
    try:
        target = replaceable(folder, elsewhere)
        trained = from_run(config, state)
        check_place(trained, to)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-export-", dir=target.parent) as beside:
            new = Path(beside) / "new"
            new.mkdir()
            notes = layout.write(trained, new)
            if problem := _problem(trained, layout, new):
                raise RuntimeError(
                    f"{shown(folder)} was not written: {problem}. Please report it, with the version of timm, "
                    f"{version('timm')}"
                )
            snippet = layout.snippet(trained, str(folder))
            write(new / snippet.file, snippet.code)
            _write_card(new, card(trained, config, run, step, to, snippet, notes) + "\n")
            _take_place(new, target, Path(beside) / "old")
    except OSError as error:
        raise ValueError(
            f"{shown(folder)}: the export cannot be written there ({error.strerror or shown(str(error))}), and nothing "
            f"was changed: make room, or {elsewhere}"
        ) from error
    return folder


def replaceable(folder: Path, elsewhere: str = ELSEWHERE) -> Path:
    """Returns the folder that an export will take the place of: where a link leads, the link stays.

    Raises:
        ValueError: something is there that no export has left like this.
        OSError: it cannot be looked at.
    """
    try:
        target = folder.resolve()
    except RuntimeError as error:  # so pathlib says that links lead to each other
        raise ValueError(f"{shown(folder)}: expected a folder, found links that lead to each other") from error
    hint = f"move it away, or {elsewhere}"
    if any("\udc80" <= character <= "\udcff" for character in str(target)):
        raise ValueError(f"{shown(folder)}: expected a path in UTF-8, as other libraries open no other: {elsewhere}")
    there = next(path for path in (target, *target.parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{shown(folder)}: expected a folder to write, but {shown(there)} is a file: {hint}")
    if target.exists() and Path.cwd().is_relative_to(target):
        raise ValueError(
            f"{shown(folder)}: expected another folder than the current one, which would be replaced: name it from "
            "outside"
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
    """Writes the card of a folder that holds everything else, with the receipt."""
    digests = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    digests[CARD] = hashlib.sha256(text.encode()).hexdigest()
    write(folder / CARD, f"{text}<!-- fastmim export, SHA-256 of its files: {json.dumps(digests)} -->\n")


def _receipt(folder: Path) -> dict[str, str]:
    """The digests of an export's files as its card has them; none where there is no such card."""
    try:
        found = RECEIPT.search(read_bytes(folder / CARD, LARGEST))
        digests = parse_json(found[1]) if found else {}
    except (OSError, ValueError):
        return {}
    return digests if isinstance(digests, dict) else {}


def _digest(path: Path) -> str | None:
    """Returns the SHA-256 of a file, the card's without its receipt, or None where it is no regular file."""
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
    """Moves a folder to where there may be another one, which is back in its place if that fails."""
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise


def check_place(trained: TrainedEncoder, to: Name) -> None:
    """
    Raises:
        ValueError: the library has no such encoder; says which have.
    """
    if reason := _misfit(trained, to):
        possible = ", ".join(name for name in LAYOUTS if not _misfit(trained, name))
        raise ValueError(f"--to {to}: {reason}; this encoder can go --to {possible or 'nothing'}")


def _misfit(trained: TrainedEncoder, to: Name) -> str | None:
    try:
        LAYOUTS[to].place(trained)
    except ValueError as error:
        return str(error)
    return None


@torch.no_grad()
def _problem(trained: TrainedEncoder, layout: Layout, folder: Path) -> str | None:
    """Says why an export is not the encoder that was trained, or returns None.

    Noise images go through what was trained (uint8, nothing hidden), through `features`, and through the loaded copy. A
    compact grid cannot hold a whole image, so there is no such forward for uniform masks; a classifier has none either.
    """
    encoder = trained.model.encoder
    shape = (2, *trained.test_size, trained.image.channels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = trained.normalize(images)
    if problem := layout.problem(trained, folder, pixels):
        return problem
    compact = trained.masking.uniform and encoder.reads == "visible" and encoder.merge > 1
    if compact or trained.head is not None:
        return None
    cells = encoder.grid[0] * encoder.grid[1]
    everything = Mask(torch.arange(cells).expand(2, -1), cells, encoder.grid)
    if found := differs(trained.model.tokens(pixels), encoder(images, everything)):
        return f"training's forward gives other features ({found})"
    return None
