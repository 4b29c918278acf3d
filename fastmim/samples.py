"""Sample ids and random streams: the keys of everything that is drawn for a sample. May import torch only."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Stream(enum.IntEnum):
    """Purposes of random draws. Values are part of the reproducibility contract: never renumber."""

    ORDER = 0
    CROP = 1
    FLIP = 2
    MASK = 3
    HELD_OUT = 4
    SUBSTITUTE = 5
    SECONDARY = 6
    AUGMENT = 7


def sample_id(index: Tensor, epoch: Tensor | int, repeat: Tensor | int = 0) -> Tensor:
    """Packs (sample index, epoch, repeat) into one int64, the key of everything drawn for that sample.

    Low 32 bits: index in the manifest. High word: epoch * 256 + repeat.
    """
    return index + (epoch * 256 + repeat << 32)


def sample_index(ids: Tensor) -> Tensor:
    """The manifest index in each id."""
    return ids & 0xFFFFFFFF
