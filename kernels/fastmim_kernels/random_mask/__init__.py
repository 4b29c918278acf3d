"""Which patches of each image are visible: random numbers drawn and the smallest of them selected in one pass."""

from torch import Tensor

from .. import _op
from ..philox import check, signed_seed
from . import reference


def random_mask(
    seed: int, stream: int, ids: Tensor, num_patches: int, num_keep: int, *, raster: bool = False
) -> Tensor:
    """Draws a permutation of the patches for each id, whose first `num_keep` are visible and the others hidden.

    MAE (arXiv:2111.06377), section 3, "Masking": patch l draws word l of `philox(seed, stream, id, num_patches)`; the
    `num_keep` patches with the smallest draws are visible, of equal draws that of the smaller index.

    Args:
        seed, stream, ids: see `philox`.
        num_patches: L, 1 <= L < 2**31; on CUDA at most 4,096, which one program sorts in registers.
        num_keep: visible patches, 1 <= num_keep <= L.
        raster: the visible patches in ascending order, then the hidden ones in ascending order. Otherwise all L in the
            order of their draws, as in models_mae.py `random_masking`. The visible set is the same.
    Returns: (B, L) int64.
    Raises:
        ValueError: an argument is out of range, or ids of another shape or dtype.
    """
    args = (signed_seed(seed), stream, ids, num_patches, num_keep, raster)
    _check(*args)
    if _op.using_reference():
        return reference.random_mask(*args)
    return OP.overload(*args)


def _check(seed, stream, ids, num_patches, num_keep, raster) -> None:
    check(stream, ids, num_patches)
    if not 1 <= num_keep <= num_patches < 2**31:
        raise ValueError(f"expected 1 <= num_keep <= num_patches < 2**31, got {num_keep} and {num_patches}")


def _fake(seed, stream, ids, num_patches, num_keep, raster):
    _check(seed, stream, ids, num_patches, num_keep, raster)
    return ids.new_empty(len(ids), num_patches)


OP = _op.register(
    "random_mask(int seed, int stream, Tensor ids, int num_patches, int num_keep, bool raster) -> Tensor",
    reference=reference.random_mask,
    fake=_fake,
)
