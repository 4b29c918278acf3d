"""Reads a model's sizes from the shapes of its weights. May import L3 and below."""

from __future__ import annotations

import math
import re

from torch import Tensor

from ..config.base import Data
from ..data.crops import RandomResizedCrop

State = dict[str, Tensor]


def shape(state: State, name: str, dims: int | None = None) -> list[int]:
    """
    Args:
        dims: how many dimensions it has; None = any number.
    Raises:
        ValueError: there is no such tensor, or it has another number of dimensions.
    """
    if name not in state:
        raise ValueError(f"the file lacks {name} (by our name), whose shape tells the sizes")
    found = list(state[name].shape)
    if dims is not None and len(found) != dims:
        raise ValueError(f"{name} (by our name) has the shape {tuple(found)}, expected {dims} dimensions")
    return found


def root(number: int) -> int:
    """The side of a square of so many cells.

    Raises:
        ValueError: it is no square.
    """
    side = math.isqrt(max(number, 0))
    if side == 0 or side**2 != number:
        raise ValueError(f"{number} positions are no square, so they do not tell height and width")
    return side


def count(state: State, prefix: str) -> int:
    """Returns how many numbers follow a prefix: the blocks in a list of blocks."""
    return len({found[1] for name in state if (found := re.match(re.escape(prefix) + r"(\d+)\.", name))})


def square(side: int, channels: int, crop: RandomResizedCrop) -> Data:
    """Images of the published kind.

    Raises:
        ValueError: channels other than 3, of which we know no mean and deviation.
    """
    if channels != 3:
        raise ValueError(f"the published models have 3 channels, this one has {channels}")
    return Data(crop=crop, size=(side, side))
