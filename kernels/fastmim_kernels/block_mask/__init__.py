"""Masks of square blocks of patches: the blocks drawn in random order and taken apart in one pass."""

from torch import Tensor

from .. import _op
from ..philox import check, signed_seed
from . import reference


def block_mask(seed: int, stream: int, ids: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """Draws a permutation of the patches for each id in which those of a block follow one another.

    SimMIM (arXiv:2111.09886), section 3.2, whose first blocks are visible and the others hidden, and long-sequence MAE
    (arXiv:2210.07224; util/long_seq_patch_loader.py), where the last visible one may be cut. Block k, in raster order,
    of the n = ceil(rows / side) * ceil(columns / side) draws word k of `philox(seed, stream, id, n)`; the blocks come
    in the order of their draws, of equal ones that of the smaller index first, each with its patches column by column.
    What a block at the edge has outside the grid is left out.

    Args:
        seed, stream, ids: see `philox`.
        rows, columns: patches, rows * columns < 2**31.
        side: of a block, patches, 1 <= side < 2**31; on CUDA there are at most 2,048 blocks, which one program sorts in
            registers.
    Returns: (B, rows * columns) int64.
    Raises:
        ValueError: an argument is out of range, or ids of another shape or dtype.
    """
    args = (signed_seed(seed), stream, ids, rows, columns, side)
    _check(*args)
    return reference.block_mask(*args) if _op.using_reference() else OP.overload(*args)


def _check(seed, stream, ids, rows, columns, side) -> None:
    if rows < 1 or columns < 1 or rows * columns >= 2**31 or not 1 <= side < 2**31:
        raise ValueError(
            f"expected 1 to 2**31 - 1 patches and a side of at least 1 patch, got {rows} x {columns} and {side}"
        )
    check(stream, ids, 0)


def _fake(seed, stream, ids, rows, columns, side):
    _check(seed, stream, ids, rows, columns, side)
    return ids.new_empty(len(ids), rows * columns)


OP = _op.register(
    "block_mask(int seed, int stream, Tensor ids, int rows, int columns, int side) -> Tensor",
    reference=reference.block_mask,
    fake=_fake,
)
