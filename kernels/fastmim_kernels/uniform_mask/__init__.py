"""Uniform masks with one visible patch in every 2x2 block, and secondary masks, drawn in one pass."""

import torch
from torch import Tensor

from .. import _op
from ..philox import check_draw, signed_seed
from . import reference


def uniform_mask(
    seed: int, stream: int, secondary_stream: int, ids: Tensor, rows: int, columns: int, kept: int, *, stratified: bool
) -> tuple[Tensor, Tensor]:
    """Draws for each id the visible corner of every 2x2 block of patches, and the secondary mask.

    UM-MAE (arXiv:2205.10063), section 3.2, "Uniform Sampling" and "Secondary Masking". There are K = rows * columns / 4
    blocks in raster order. In block k the patch in row corner[k] // 2 and column corner[k] % 2 of the block is visible.

    If `stratified`, as in mask_transform.py, the corners are drawn without replacement from a pool that holds each
    corner ceil(K / 2) times. Let `order` be the argsort of words 0, ..., 4 ceil(K / 2) - 1 of `philox(seed, stream,
    id)` (of equal words, the smaller index comes first):
        corner[k] = order[k] // ceil(K / 2)
    If not `stratified`, corner[k] is the high two bits of word k.

    Secondary masking draws words 0, ..., K - 1 of `secondary_stream`. The visible patches with the `kept` smallest
    words reach the encoder as they are; a token replaces the others.

    Args:
        seed: 0 <= seed < 2**64; see `philox`.
        stream: purpose of the random numbers of the corners; see `philox`.
        secondary_stream: purpose of the random numbers of the secondary mask.
        ids: (B,) int64 sample ids.
        rows: patches of a column, even, with rows * columns < 2**31. On CUDA at most 4,096 patches, which one program
            sorts in registers.
        columns: patches of a row, even.
        kept: number of visible patches that are not replaced, 1 <= kept <= K.
        stratified: True = each corner is equally frequent; False = corners are independent.
    Returns: (B, 4 K) int64, the visible patches in the order of their blocks, then the hidden patches in ascending
        order; and (B, K) bool, True = a token replaces that visible patch.
    Raises:
        ValueError: an argument is out of range, or `ids` has another shape or dtype.
    """
    args = (signed_seed(seed), stream, secondary_stream, ids, rows, columns, kept, stratified)
    _check(*args)
    return reference.uniform_mask(*args) if _op.using_reference() else OP.overload(*args)


def _check(seed, stream, secondary_stream, ids, rows, columns, kept, stratified) -> None:
    if rows < 1 or columns < 1 or rows % 2 or columns % 2 or rows * columns >= 2**31:
        raise ValueError(
            f"expected an even number of patches on each side, fewer than 2**31 in all, got {rows} x {columns}"
        )
    if not 1 <= kept <= rows * columns // 4:
        raise ValueError(f"kept: expected 1 to {rows * columns // 4} of the visible patches, got {kept}")
    check_draw(stream, ids, 0)
    check_draw(secondary_stream, ids, 0)


def _fake(seed, stream, secondary_stream, ids, rows, columns, kept, stratified):
    _check(seed, stream, secondary_stream, ids, rows, columns, kept, stratified)
    patches = rows * columns
    return ids.new_empty(len(ids), patches), ids.new_empty((len(ids), patches // 4), dtype=torch.bool)


OP = _op.register(
    "uniform_mask(int seed, int stream, int secondary_stream, Tensor ids, int rows, int columns, int kept, "
    "bool stratified) -> (Tensor order, Tensor secondary)",
    reference=reference.uniform_mask,
    fake=_fake,
)
