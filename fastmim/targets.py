"""Targets: what the hidden patches are compared with. Parameter-free; may import L1 and L0."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .tokens import Target, patchify


@dataclass(frozen=True)
class Pixels(Target):
    """The mean/std-normalised pixels themselves."""

    def __call__(self, images: Tensor, patch_size: int) -> Tensor:
        return patchify(images, patch_size)


@dataclass(frozen=True)
class NormalizedPatches(Target):
    """Pixels standardised within each patch (MAE's `norm_pix_loss`, models_mae.py `forward_loss`).

    t = (x - mean(x)) / sqrt(var(x) + 1e-6) over all p*p*C values of the patch, with the unbiased variance.
    """

    def __call__(self, images: Tensor, patch_size: int) -> Tensor:
        patches = patchify(images, patch_size)
        mean, std = self.statistics(patches)
        return (patches - mean) / std

    def pixels(self, pred: Tensor, patches: Tensor) -> Tensor:
        mean, std = self.statistics(patches)
        return pred * std + mean

    @staticmethod
    def statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and square root of variance + 1e-6 of each patch: (..., 1) each."""
        return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
