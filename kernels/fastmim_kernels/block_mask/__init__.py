"""Masks of square blocks of patches, drawn and cut into patches in one pass."""

from torch import Tensor

from .. import _op
from ..philox import check_draw, signed_seed
from . import reference


def block_mask(seed: int, stream: int, ids: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """Draws for each id a permutation of the patches that keeps the patches of a block together.

    Block k, in raster order, of the n = ceil(rows / side) * ceil(columns / side) blocks draws word k of
    `philox(seed, stream, id, n)`. The blocks are sorted by their draws; of equal draws, the smaller index comes first.
    The patches of a block follow one another column by column. A block at the edge lacks the patches outside the grid.

    SimMIM (arXiv:2111.09886), section 3.2: the first blocks are visible and the others hidden. Long-sequence MAE
    (arXiv:2210.07224; util/long_seq_patch_loader.py): the last visible block may be cut.

    Args:
        seed: 0 <= seed < 2**64; see `philox`.
        stream: purpose of the random numbers; see `philox`.
        ids: (B,) int64 sample ids.
        rows: patches of a column, with rows * columns < 2**31.
        columns: patches of a row.
        side: patches along a side of a block, 1 <= side < 2**31. On CUDA at most 2,048 blocks, which one program sorts
            in registers.
    Returns: (B, rows * columns) int64.
    Raises:
        ValueError: an argument is out of range, or `ids` has another shape or dtype.
    """
    args = (signed_seed(seed), stream, ids, rows, columns, side)
    _check(*args)
    return reference.block_mask(*args) if _op.using_reference() else OP.overload(*args)


def _check(seed, stream, ids, rows, columns, side) -> None:
    if rows < 1 or columns < 1 or rows * columns >= 2**31 or not 1 <= side < 2**31:
        raise ValueError(
            f"expected 1 to 2**31 - 1 patches and a side of at least 1 patch, got {rows} x {columns} and {side}"
        )
    check_draw(stream, ids, 0)


def _fake(seed, stream, ids, rows, columns, side):
    _check(seed, stream, ids, rows, columns, side)
    return ids.new_empty(len(ids), rows * columns)


OP = _op.register(
    "block_mask(int seed, int stream, Tensor ids, int rows, int columns, int side) -> Tensor",
    reference=reference.block_mask,
    fake=_fake,
)
