"""The loss curve of a run with the trivial predictors, alone or beside reconstructions. May import L3 and below."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from ..metrics import read_metrics
from ..terminal import shown
from .pictures import save_png

_DPI = 120
# Okabe and Ito's colours, which colour-blind people can tell apart; dashes tell the predictors apart.
_TRAINING, _HELD_OUT = "#0072B2", "#D55E00"
_DASHES = (":", "-.", "--")


def plot_curve(run: Path) -> Path:
    """Draws the losses of `run`/metrics.jsonl into `run`/loss.png.

    Raises:
        ValueError: the folder holds no metrics.
    """
    return save_png(_curve(run, 960, 600), run, "loss.png")


def plot_summary(run: Path, grid: Image.Image) -> Path:
    """Draws the losses and, on their right, a grid of reconstructions into `run`/summary.png.

    Raises:
        ValueError: the folder holds no metrics.
    """
    curve = _curve(run, 840, max(grid.height, 360))  # less has no room for axes
    sheet = Image.new("RGB", (curve.width + grid.width, curve.height), "white")
    sheet.paste(curve, (0, 0))
    sheet.paste(grid, (curve.width, 0))
    return save_png(sheet, run, "summary.png")


def _curve(run: Path, width: int, height: int) -> Image.Image:
    """Draws the losses as a picture of `width` x `height` pixels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    path = run / "metrics.jsonl"
    rows = read_metrics(run)
    train = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    held_out = [(row["step"], row["held_out"]) for row in rows if "held_out" in row]
    if not train:
        raise ValueError(f"{path}: expected the metrics of a run, found none; give the folder of a run that has logged")
    figure, axes = plt.subplots(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
    axes.plot(*zip(*train, strict=True), color=_TRAINING, linewidth=1.5, label="training images")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=_HELD_OUT, linewidth=2.5, marker="o", label="held-out images")
        trivial = next(row["trivial"] for row in reversed(rows) if "trivial" in row)
        for dashes, (name, value) in zip(_DASHES, trivial.items(), strict=True):
            label = f"held-out, trivial: {name.replace('_', ' ')} ({value:.3f})"
            axes.axhline(value, color="0.3", linestyle=dashes, label=label)
    axes.set(xlabel="update", ylabel="loss on hidden patches")
    axes.set_title(shown(run.name), parse_math=False)  # a name with dollars is no formula
    axes.legend()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # of scripts that the font lacks
        figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    plt.close(figure)
    return picture
