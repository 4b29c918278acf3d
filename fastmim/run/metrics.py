"""The rows of metrics.jsonl: their check, and the cost and the progress of training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..host.records import Row, is_count, read_rows

NOT_FINITE = "nothing: the last loss is not finite"
_MOST_PREDICTORS, _LONGEST_NAME = (
    10,
    40,
)  # predictors in a row, and characters of a name; fastmim writes three short names


def read_metrics(folder: Path) -> list[Row]:
    """Returns the sound rows of a run's metrics.jsonl; damaged lines are left out."""
    return read_rows(folder / "metrics.jsonl", is_sound)


def is_sound(row: Row) -> bool:
    """True if a row of metrics.jsonl holds valid values."""
    trivial = row.get("trivial", {})
    return (
        is_count(row.get("step"))
        and all(value is None or _is_number(value) for name, value in row.items() if name != "trivial")
        and (
            "images_per_s" not in row
            or all(_is_number(row.get(name)) and row[name] > 0 for name in ("images_per_s", "updates", "peak_bytes"))
        )
        and ("averaged" not in row or is_count(row["averaged"]))
        and ("held_out" not in row or bool(trivial))
        and isinstance(trivial, dict)
        and len(trivial) <= _MOST_PREDICTORS
        and all(len(name) <= _LONGEST_NAME and name.isidentifier() for name in trivial)
        and all(map(_is_number, trivial.values()))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def training_cost(folder: Path, batch: int) -> tuple[float, int]:
    """Returns (hours of training, peak memory in bytes) of a run, over all its continuations.

    Args:
        folder: the run folder.
        batch: images in an update. The hours do not include evaluation and saving.
    """
    rows = [row for row in read_metrics(folder) if "images_per_s" in row]
    seconds = sum(row["updates"] * batch / row["images_per_s"] for row in rows)
    return seconds / 3600, max((row["peak_bytes"] for row in rows), default=0)


def verdict(loss: float, trivial: dict[str, float]) -> str:
    """Names the trivial predictors with a higher loss.

    Args:
        loss: loss on held-out images.
        trivial: loss of each trivial predictor on the same images, by name.
    """
    if not math.isfinite(loss):
        return "the loss is not finite"
    names = {name.replace("_", " "): value for name, value in sorted(trivial.items(), key=lambda item: item[1])}
    beaten = [name for name, value in names.items() if loss < value]
    others = [name for name in names if name not in beaten]
    if not others:
        return f"{1 - loss / names[beaten[0]]:.0%} below {beaten[0]}, the best of them"
    if not beaten:
        return f"below none of them; {_below(loss, names[others[-1]])} {others[-1]}"
    return f"below {' and '.join(beaten)}, not yet below {' and '.join(others)}"


def progress(folder: Path) -> str:
    """Compares a run's last loss with the losses of the trivial predictors, in words."""
    rows = read_metrics(folder)
    tests = [row for row in rows if "held_out" in row]
    losses = [row["loss"] for row in rows if "loss" in row]
    if not tests and not losses:
        return "unknown: metrics.jsonl holds no loss"
    if not tests:
        loss = losses[-1]
        if loss is None:
            return NOT_FINITE
        return f"loss {loss:.4f} on training images; there are no held-out images to compare it on"
    loss, trivial = tests[-1]["held_out"], tests[-1]["trivial"]
    if loss is None:
        return NOT_FINITE
    beside = ", ".join(
        f"{_below(loss, value)} {name.replace('_', ' ')} ({value:.4f})"
        for name, value in sorted(trivial.items(), key=lambda item: item[1])
    )
    return f"held-out loss {loss:.4f}: {beside}"


def _below(loss: float, value: float) -> str:
    """Compares two losses in words: "10.0 % below" for 0.9 and 1."""
    if not value:  # the held-out images have no contrast
        return "at" if loss == value else "above"
    return f"{abs(1 - loss / value):.1%} {'below' if loss < value else 'above'}".replace("%", " %")
