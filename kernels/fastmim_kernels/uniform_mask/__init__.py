"""Uniform masks, one visible patch in every 2x2 block: drawn, put in order and masked a second time in one pass."""

import torch
from torch import Tensor

from .. import _op
from ..philox import check, signed_seed
from . import reference


def uniform_mask(
    seed: int, stream: int, secondary_stream: int, ids: Tensor, rows: int, columns: int, kept: int, *, stratified: bool
) -> tuple[Tensor, Tensor]:
    """Draws the visible corner of every 2x2 block of patches for each id, and which of these a token replaces.

    UM-MAE (arXiv:2205.10063), section 3.2, "Uniform Sampling" and "Secondary Masking". Of K = rows * columns / 4
    blocks in raster order, block k shows the patch in row corner[k] // 2 and column corner[k] % 2 of it. Stratified, as
    in mask_transform.py, without replacement from a pool with each corner ceil(K / 2) times: with order the argsort of
    words 0 .. 4 ceil(K / 2) - 1 of `philox(seed, stream, id)`, of equal ones the smaller index first,
        corner[k] = order[k] // ceil(K / 2)
    Otherwise independently, the high two bits of word k. Secondary masking draws words 0 .. K - 1 of
    `secondary_stream`: the visible patches with the `kept` smallest reach the encoder as they are.

    Args:
        seed, stream, ids: see `philox`; secondary_stream: as stream.
        rows, columns: patches, both even, rows * columns < 2**31; on CUDA at most 4,096 patches, which one program
            sorts in registers.
        kept: visible patches that are not replaced, 1 <= kept <= K.
        stratified: how the corners are drawn.
    Returns: (B, 4 K) int64, the visible patches in the order of their blocks, then the hidden ones ascending; (B, K)
        bool, True = that visible patch is replaced.
    Raises:
        ValueError: an argument is out of range, or ids of another shape or dtype.
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
    check(stream, ids, 0)
    check(secondary_stream, ids, 0)


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
