"""Base of the export formats: the functions that each format has, and the tolerance of their checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from .trained_encoder import TrainedEncoder

TOLERANCE = 1e-4
"""Largest accepted difference, as a fraction of the values' root mean square.

Another order of arithmetic causes such differences.
"""


class Snippet(NamedTuple):
    """Code for the user to paste."""

    file: str
    """Name of its file."""
    code: str
    """The text."""


@dataclass(frozen=True)
class ExportFormat:
    """Format of an export.

    Attributes:
        weights: name of the file with the weights.
        check: raises ValueError if the format has no place for the encoder.
        write: writes the files into an empty folder, and returns sentences about them for the user.
        find_problem: compares the files with the encoder on normalised (B, C, H, W) images, and returns the difference
            in words, or None.
        snippet: returns code that uses the export. The second argument is the path of the folder, as the user typed it.
    """

    weights: str
    check: Callable[[TrainedEncoder], object]
    write: Callable[[TrainedEncoder, Path], list[str]]
    find_problem: Callable[[TrainedEncoder, Path, Tensor], str | None]
    snippet: Callable[[TrainedEncoder, str], Snippet]


def describe_difference(ours: Tensor, theirs: Tensor) -> str | None:
    """Returns the difference of two results in words, or None if they agree within `TOLERANCE`."""
    if ours.shape != theirs.shape:
        return f"shape {tuple(theirs.shape)}, expected {tuple(ours.shape)}"
    difference = (ours - theirs).abs().max() / ours.square().mean().sqrt()
    # A comparison with NaN is false, so NaN is a difference too.
    return None if difference <= TOLERANCE else f"largest difference {difference:.3g} of their root mean square"
