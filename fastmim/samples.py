"""Sample ids and random streams, the keys of every random draw for a sample."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Stream(enum.IntEnum):
    """Purposes of random draws. The values are part of the reproducibility contract: never renumber them."""

    ORDER = 0
    CROP = 1
    FLIP = 2
    MASK = 3
    HELD_OUT = 4
    SUBSTITUTE = 5
    SECONDARY = 6
    AUGMENT = 7


def sample_id(index: Tensor, epoch: Tensor | int, repeat: Tensor | int = 0) -> Tensor:
    """Packs (sample index, epoch, repeat) into an int64, the key of every draw for that sample.

    The low 32 bits hold the index in the manifest, the high 32 bits hold epoch * 256 + repeat.

    Args:
        index: int64 index in the manifest.
        epoch: epoch, from 0.
        repeat: repeat of the sample in the epoch, from 0 to 255.
    """
    return index + (epoch * 256 + repeat << 32)


def sample_index(ids: Tensor) -> Tensor:
    """Returns the manifest index that each sample id holds."""
    return ids & 0xFFFFFFFF
