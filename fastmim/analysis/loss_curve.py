"""Picture of a run's losses with trivial predictors or test scores."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..host.json_files import read_json
from ..host.terminal import shown
from ..run.metrics import read_metrics
from .png_files import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_DPI = 120
_LARGEST = 2**24  # bytes of config.json
# Okabe and Ito's colours, which colour-blind people can distinguish. Dashes distinguish the predictors.
_TRAINING, _HELD_OUT = "#0072B2", "#D55E00"
_DASHES = (":", "-.", "--")
TASKS = {
    "Config": ("pre-training", "loss on hidden patches"),
    "Finetune": ("fine-tuning", "classification loss"),
    "Probe": ("linear probe", "classification loss"),
    "Detect": ("detection", "sum of detection losses"),
    "Segment": ("segmentation", "loss of pixels' classes"),
}
"""Title and label of the loss axis, by the class of the run's config."""
SCORES = {
    "test_top1": "top-1 accuracy, test images",
    "test_bbox_AP": "box AP, test images",
    "test_segm_AP": "mask AP, test images",
    "test_miou": "mean IoU, test images",
}
"""Labels of the test scores in metrics.jsonl that a picture shows."""


def plot_curve(run: Path) -> Path:
    """Draws the losses in `run`/metrics.jsonl, and writes `run`/loss.png.

    Raises:
        ValueError: the folder holds no metrics.
    """
    return save_png(_curve(run, 960, 600), run, "loss.png")


def plot_summary(run: Path, grid: Image.Image) -> Path:
    """Draws the losses beside a grid of reconstructions, and writes `run`/summary.png.

    Raises:
        ValueError: the folder holds no metrics.
    """
    curve = _curve(run, 840, max(grid.height, 360))  # axes need 360 pixels
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
    train = _means(rows)
    held_out = {row["step"]: row["held_out"] for row in rows if "held_out" in row}
    tests = {row["step"]: row for row in rows if any(name in row for name in SCORES)}
    if not train:
        raise ValueError(f"{path}: expected the metrics of a run, found none; give the folder of a run that has logged")
    figure, axes = plt.subplots(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
    canvas: Any = figure.canvas  # of the Agg backend
    lines = axes.plot(*zip(*train, strict=True), color=_TRAINING, linewidth=1.5, label="training images")
    if held_out:
        points = zip(*held_out.items(), strict=True)
        lines += axes.plot(*points, color=_HELD_OUT, linewidth=2.5, marker="o", label="held-out images")
        trivial = next(row["trivial"] for row in reversed(rows) if "trivial" in row)
        for dashes, (name, value) in zip(itertools.cycle(_DASHES), trivial.items(), strict=False):
            label = f"held-out, trivial: {name.replace('_', ' ')} ({value:.3f})"
            lines.append(axes.axhline(value, color="0.3", linestyle=dashes, label=label))
    if tests:
        lines += _scores(axes.twinx(), tests)
    task, loss = TASKS.get(_config_class(run) or "", ("", "loss"))
    axes.set(xlabel="update", ylabel=loss)
    # parse_math=False, because the name of a run may hold dollars.
    axes.set_title(": ".join(filter(None, (shown(run.name), task))), parse_math=False)
    axes.legend(handles=lines)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # for scripts that the font lacks
        canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    plt.close(figure)
    return picture


def _config_class(run: Path) -> str | None:
    """Returns the class name of a run's config, or None if the run folder holds no config."""
    try:
        part = read_json(run / "config.json", _LARGEST)["part"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return part if isinstance(part, str) else None


def _means(rows: list[dict]) -> list[tuple[int, float]]:
    """Returns (update, loss) of the log lines.

    Lines after a stop or a slow update are left out if the mean of the next line includes them.
    """
    rows = [row for row in rows if "loss" in row]
    included = [later.get("averaged", 0) > later["updates"] for later in rows[1:] if "updates" in later]
    included += [False] * (len(rows) - len(included))
    losses = [(row["step"], math.nan if row["loss"] is None else row["loss"]) for row in rows]
    return [point for point, skip in zip(losses, included, strict=True) if not skip]


def _scores(axes: Axes, tests: dict[int, dict]) -> list[Line2D]:
    """Draws the test scores on a second axis on the right, and returns their lines."""
    lines = []
    for marker, (name, label) in zip("osd^", SCORES.items(), strict=True):
        points = [(step, 100 * row[name]) for step, row in tests.items() if row.get(name) is not None]
        if points:
            lines += axes.plot(*zip(*points, strict=True), color=_HELD_OUT, marker=marker, label=label)
    axes.set(ylabel="test score, %", ylim=(0, 100))
    return lines
