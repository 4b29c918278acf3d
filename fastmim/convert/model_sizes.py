"""Sizes of a model, read from the shapes of its weights."""

from __future__ import annotations

import math
import re

from torch import Tensor

from ..config.base import Data
from ..data.crops import RandomResizedCrop

State = dict[str, Tensor]
"""Weights by fastmim's names."""


def tensor_shape(state: State, name: str, dims: int | None = None) -> list[int]:
    """Returns the shape of a tensor whose sides determine the model's sizes.

    Args:
        state: weights of the file.
        name: name of the tensor.
        dims: expected number of dimensions; None = any number.

    Raises:
        ValueError: the tensor is missing, or has another number of dimensions.
    """
    if name not in state:
        raise ValueError(f"the file lacks {name} (fastmim's name), whose shape determines the model's sizes")
    found = list(state[name].shape)
    if dims is not None and len(found) != dims:
        raise ValueError(f"{name} (fastmim's name): expected {dims} dimensions, got the shape {tuple(found)}")
    return found


def square_side(cells: int) -> int:
    """Returns the side of a square of `cells` cells.

    Raises:
        ValueError: `cells` is not a square number.
    """
    side = math.isqrt(max(cells, 0))
    if side == 0 or side**2 != cells:
        raise ValueError(f"expected a square number of positions, got {cells}, which do not determine height and width")
    return side


def count_blocks(state: State, prefix: str) -> int:
    """Counts the different numbers after a prefix of names, e.g. the blocks after "encoder.blocks."."""
    return len({found[1] for name in state if (found := re.match(re.escape(prefix) + r"(\d+)\.", name))})


def square_images(side: int, channels: int, crop: RandomResizedCrop) -> Data:
    """Returns the data settings of square images with the mean and deviation of ImageNet.

    Args:
        side: height and width, pixels.
        channels: number of channels of the model's first layer.
        crop: crop of the published recipe.

    Raises:
        ValueError: `channels` is not 3, so that mean and deviation are unknown.
    """
    if channels != 3:
        raise ValueError(f"expected 3 channels, as the published models have, got {channels}")
    return Data(crop=crop, size=(side, side))
