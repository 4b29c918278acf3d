"""Joins a target and a loss: a fused kernel where a pair has one, else the target built and then compared.

Imports targets and losses only; may import L1 and L0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastmim_kernels
from fastmim_kernels import patch_loss

from .losses import MaskedL1, MaskedL2
from .targets import NormalizedPatches, Pixels
from .tokens import Loss, Mask, Target

# (target, loss) pairs that `patch_loss` computes from the image itself: its `norm_pix` and `loss` arguments.
FUSED = {
    (Pixels, MaskedL1): (False, "l1"),
    (Pixels, MaskedL2): (False, "l2"),
    (NormalizedPatches, MaskedL1): (True, "l1"),
    (NormalizedPatches, MaskedL2): (True, "l2"),
}


class Objective(nn.Module):
    """`objective(pred, images, mask) -> ()` fp32: the loss averaged over hidden patches.

    pred: (B, L - K, P) predictions of `mask.ids_hidden`. images: (B, H, W, C) uint8 (normalised here) or normalised
    floats.
    """

    def __init__(self, target: Target, loss: Loss, patch_size: int, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.target, self.loss, self.patch_size = target, loss, patch_size
        self.fused = FUSED.get((type(target), type(loss)))
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, pred: Tensor, images: Tensor, mask: Mask) -> Tensor:
        if self.fused is None:
            target = self.targets(images).gather(1, mask.ids_hidden[..., None].expand_as(pred))
            return self.loss(pred, target)
        norm_pix, loss = self.fused
        num_patches = mask.grid[0] * mask.grid[1]
        rows = mask.ids_hidden + torch.arange(len(images), device=images.device)[:, None] * num_patches
        return patch_loss(
            pred.flatten(0, 1),
            images,
            rows.flatten(),
            self.patch_size,
            self.mean.float(),
            self.std.float(),
            norm_pix=norm_pix,
            loss=loss,
        )

    def normalize(self, images: Tensor) -> Tensor:
        """(B, H, W, C) uint8 to mean/std-normalised fp32; floats pass through."""
        if images.dtype != torch.uint8:
            return images
        return (images.float() / 255 - self.mean.float()) / self.std.float()

    def targets(self, images: Tensor) -> Tensor:
        """(B, L, P) targets of every patch: for the unfused path, pictures and trivial predictors."""
        return self.target(self.normalize(images), self.patch_size)

    def describe(self, device: str) -> str:
        """One line that says which path the loss takes."""
        pair = f"{type(self.target).__name__} + {type(self.loss).__name__}"
        if self.fused is None:
            return f"{pair}: target built in full, then compared (no fused kernel for this pair)"
        return f"{pair}: fused patch_loss ({fastmim_kernels.backends()['patch_loss'][device]})"
