"""Masking laws: which patches are hidden, as a pure function of (seed, sample id, grid). May import L1 and L0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fastmim_kernels import random_mask

from .tokens import Mask, Masking, Stream


@dataclass(frozen=True)
class RandomMasking(Masking):
    """Hides a random subset of patches (MAE, arXiv:2111.06377, section 3, "Masking").

    Each patch draws a number; the int(L * (1 - ratio)) smallest stay visible, as in models_mae.py `random_masking`. The
    count is floored, and at least one patch is visible and one hidden.
    """

    ratio: float = 0.75
    """Hidden fraction of the patches, between 0 and 1."""
    order: Literal["noise", "raster"] = "noise"
    """Order of the tokens, not which patches they are: "noise", of their draws, as published; "raster", ascending,
    which is cheaper to draw."""

    def __post_init__(self):
        if not 0 < self.ratio < 1:
            raise ValueError(f"masking.ratio is the hidden fraction, between 0 and 1 exclusive; got {self.ratio}")
        if self.order not in ("noise", "raster"):
            raise ValueError(f'masking.order is "noise" or "raster"; got {self.order!r}')

    def __call__(self, seed: int, ids: Tensor, grid: tuple[int, int]) -> Mask:
        num_patches = grid[0] * grid[1]
        num_keep = int(num_patches * (1 - self.ratio))
        if not 0 < num_keep < num_patches:
            raise ValueError(
                f"masking.ratio={self.ratio} leaves {num_keep} of {num_patches} patches visible; at least one must be "
                "visible and one hidden: change the ratio, the image size or the patch size"
            )
        order = random_mask(seed, Stream.MASK, ids, num_patches, num_keep, raster=self.order == "raster")
        return Mask(order, num_keep, grid)
