"""A trained encoder as a folder for other libraries; checked before it counts. May import L3 and below, and convert."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..config import Experiment
from ..tokens import Mask
from .card import card
from .frameworks import DETECTRON2, MMDET, MMSEG
from .layouts import HUB, TIMM, Layout, differs
from .load import from_run
from .onnx_export import BESIDE, ONNX
from .trained import Trained

Name = Literal["timm", "mmdet", "mmseg", "detectron2", "onnx", "hub-folder"]
LAYOUTS: dict[Name, Layout] = {
    "timm": TIMM,
    "mmdet": MMDET,
    "mmseg": MMSEG,
    "detectron2": DETECTRON2,
    "onnx": ONNX,
    "hub-folder": HUB,
}
WEIGHTS = {layout.weights for layout in LAYOUTS.values()}
SNIPPETS = {"usage.py", "config.py"}
FILES = WEIGHTS | SNIPPETS | {BESIDE, "config.json", "README.md"}
"""Every file that some export has."""


def export_encoder(
    config: Experiment, state: Mapping[str, Tensor], folder: Path, to: Name = "timm", run: Path | None = None
) -> Path:
    """Writes the encoder, how it is used, and a model card; and checks it by loading it.

    It is written and checked beside `folder` and then takes its place, so that a failed export leaves nothing behind
    and an earlier one alone.

    Args:
        state: fp32 tensors of the whole module by name, as checkpoints hold them; averaged ones where there are.
        run: the run's folder, for what the card says of it.
    Raises:
        ValueError: `folder` holds something that is not an export, or the library has no such encoder.
        RuntimeError: the copy does not give the same features, or training's forward gave others.
    """
    target, layout = folder.resolve(), LAYOUTS[to]  # a link stays, and what it leads to is replaced
    check_replaceable(folder)
    trained = from_run(config, state)
    check_place(trained, to)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside:
        new = Path(beside) / "new"
        new.mkdir()
        notes = layout.write(trained, new)
        if problem := _problem(trained, layout, new):
            raise RuntimeError(
                f"{folder} was not written: {problem}. Please report it, with the version of timm, {version('timm')}"
            )
        snippet = layout.snippet(trained, str(folder))
        (new / snippet.file).write_text(snippet.code)
        (new / "README.md").write_text(card(trained, config, run, to, snippet, notes))
        if target.exists():
            target.rename(Path(beside) / "old")
        new.rename(target)
    return folder


def check_replaceable(folder: Path) -> None:
    """
    Raises:
        ValueError: there is something in `folder` that no export has left there.
    """
    if not folder.exists():
        return
    found = {path.name for path in folder.iterdir()}
    others = found - FILES
    if not others and not (found & WEIGHTS and (found & SNIPPETS or "README.md" not in found)):
        others = found  # somebody's own, as a model of the hub has a README.md too
    if others:
        raise ValueError(
            f"{folder}: expected an earlier export or an empty folder, found {min(others)!r} there: "
            "move it away, or export to another folder"
        )


def check_place(trained: Trained, to: Name) -> None:
    """
    Raises:
        ValueError: the library has no such encoder; says which have.
    """
    if reason := _misfit(trained, to):
        possible = ", ".join(name for name in LAYOUTS if not _misfit(trained, name))
        raise ValueError(f"--to {to}: {reason}; this encoder can go --to {possible or 'nothing'}")


def _misfit(trained: Trained, to: Name) -> str | None:
    try:
        LAYOUTS[to].place(trained)
    except ValueError as error:
        return str(error)
    return None


@torch.no_grad()
def _problem(trained: Trained, layout: Layout, folder: Path) -> str | None:
    """Why an export is not the encoder that was trained, or None.

    Noise images go through what was trained (uint8, nothing hidden), through `features`, and through the loaded copy. A
    compact grid cannot hold a whole image, so there is no such forward for uniform masks; a classifier has none either.
    """
    encoder = trained.model.encoder
    shape = (2, *trained.test_size, len(trained.mean))
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
