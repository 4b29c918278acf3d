"""Random masks: one pass draws a number for each patch and selects the smallest numbers."""

from torch import Tensor

from .. import _op
from ..philox import check_draw, signed_seed
from . import reference


def random_mask(
    seed: int, stream: int, ids: Tensor, num_patches: int, num_keep: int, *, raster: bool = False
) -> Tensor:
    """Draws for each id a permutation of the patches.

    The first `num_keep` patches are visible, the other patches hidden.

    MAE (arXiv:2111.06377), section 3, "Masking": patch l draws word l of `philox(seed, stream, id, num_patches)`. The
    `num_keep` patches with the smallest draws are visible; of equal draws, the smaller index counts as smaller.

    Args:
        seed: 0 <= seed < 2**64; see `philox`.
        stream: purpose of the random numbers; see `philox`.
        ids: (B,) int64 sample ids.
        num_patches: L, 1 <= L < 2**31. On CUDA at most 4,096, which one program sorts in registers.
        num_keep: number of visible patches, 1 <= num_keep <= L.
        raster: True = the visible patches in ascending order, then the hidden patches in ascending order. False = all L
            in the order of their draws, as in `random_masking` of models_mae.py. The visible set is the same.
    Returns: (B, L) int64.
    Raises:
        ValueError: an argument is out of range, or `ids` has another shape or dtype.
    """
    args = (signed_seed(seed), stream, ids, num_patches, num_keep, raster)
    _check(*args)
    if _op.using_reference():
        return reference.random_mask(*args)
    return OP.overload(*args)


def _check(seed, stream, ids, num_patches, num_keep, raster) -> None:
    check_draw(stream, ids, num_patches)
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
