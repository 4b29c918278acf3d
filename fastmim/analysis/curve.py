"""The loss curve of a run, with the trivial predictors that make it readable. May import L3 and below."""

from __future__ import annotations

import json
from pathlib import Path

from ..metrics import whole_lines


def plot_curve(run: Path) -> Path:
    """Draws the losses of `run`/metrics.jsonl into `run`/loss.png.

    Raises:
        ValueError: the folder holds no metrics.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in whole_lines(path)]
    train = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    held_out = [(row["step"], row["held_out"]) for row in rows if "held_out" in row]
    if not train:
        raise ValueError(f"{path}: expected the metrics of a run, found none; give the folder of a run that has logged")
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.plot(*zip(*train, strict=True), label="training images", linewidth=1)
    if held_out:
        axes.plot(*zip(*held_out, strict=True), label="held-out images", marker="o", markersize=3)
        trivial = next(row["trivial"] for row in reversed(rows) if "trivial" in row)
        for color, (name, value) in zip(("0.75", "0.5", "0.25"), trivial.items(), strict=True):
            axes.axhline(value, color=color, linestyle="--", linewidth=1, label=f"trivial: {name} ({value:.3f})")
    axes.set(xlabel="update", ylabel="loss on hidden patches", title=run.name)
    axes.legend()
    target = run / "loss.png"
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target
