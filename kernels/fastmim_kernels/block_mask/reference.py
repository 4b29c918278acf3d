"""Masks of blocks in plain torch: the definition of correct."""

import torch
from torch import Tensor

from ..philox.reference import philox


def block_mask(seed, stream, ids, rows, columns, side) -> Tensor:
    side = min(side, max(rows, columns))  # a block larger than the grid covers the whole grid
    down, across = -(-rows // side), -(-columns // side)
    block = philox(seed, stream, ids, down * across).argsort(dim=1, stable=True)[..., None]
    offset = torch.arange(side * side, device=ids.device)
    row, column = block // across * side + offset % side, block % across * side + offset // side
    patches = (row * columns + column).flatten(1)
    outside = ((row >= rows) | (column >= columns)).flatten(1)
    return patches.gather(1, outside.byte().argsort(dim=1, stable=True)[:, : rows * columns])
