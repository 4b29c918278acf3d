"""Joins a target and a loss: a fused kernel where a pair has one, else the target built and then compared.

Imports losses only; may import L1 and L0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastmim_kernels
from fastmim_kernels import patch_loss

from .losses import MaskedL1, MaskedL2
from .tokens import Loss, Mask, Target, take, unpatchify

# Losses that `patch_loss` computes from the image itself, for any target made of patches: its `loss` argument.
FUSED = {MaskedL1: "l1", MaskedL2: "l2"}


class Objective(nn.Module):
    """`objective(pred, images, mask) -> ()` fp32: the loss averaged over hidden patches.

    pred: (B, M, P) predictions of the patches `mask.ids[:, -M:]`: M = L if the loss sees whole images, else L - K.
    images: (B, H, W, C) uint8 (normalised here) or normalised floats.
    """

    def __init__(self, target: Target, loss: Loss, patch_size: int, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.target, self.loss, self.patch_size = target, loss, patch_size
        self.fused = FUSED.get(type(loss)) if type(target).__call__ is Target.__call__ else None
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    @property
    def whole(self) -> bool:
        """Whether predictions of the visible patches are wanted too."""
        return self.loss.whole

    def forward(self, pred: Tensor, images: Tensor, mask: Mask) -> Tensor:
        if self.fused is None:
            return self.compare(pred, self.targets(images), mask)
        num_patches = mask.grid[0] * mask.grid[1]
        rows = (mask.ids_hidden + torch.arange(len(images), device=images.device)[:, None] * num_patches).flatten()
        return patch_loss(
            pred.flatten(0, 1),
            self.source(images, rows),
            rows,
            self.patch_size,
            self.mean.float(),
            self.std.float(),
            norm_pix=self.target.norm_pix,
            loss=self.fused,
        )

    def compare(self, pred: Tensor, target: Tensor, mask: Mask) -> Tensor:
        """The loss of (B, M, P) predictions of `mask.ids[:, -M:]` against the (B, L, P) targets of every patch.

        A loss that sees whole images takes patches without a prediction as predicted perfectly.
        """
        if not self.whole:
            return self.loss(pred, take(target, mask.ids_hidden))
        index = mask.ids[:, -pred.shape[1] :, None].expand_as(pred)
        images = [unpatchify(x, self.patch_size, mask.grid) for x in (target.scatter(1, index, pred.float()), target)]
        return self.loss(*images, mask.hidden_map(images[0].shape[1:3])[..., None])

    def normalize(self, images: Tensor) -> Tensor:
        """(B, H, W, C) uint8 to mean/std-normalised fp32; floats pass through."""
        if images.dtype != torch.uint8:
            return images
        return (images.float() / 255 - self.mean.float()) / self.std.float()

    def source(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """The images whose patches are predicted: as they came, unless the target changes them; see Target.source."""
        return self.target.source(images, self.mean.float(), self.std.float(), rows, self.patch_size)

    def targets(self, images: Tensor) -> Tensor:
        """(B, L, P) targets of every patch: for the unfused path, pictures and trivial predictors."""
        return self.target(self.normalize(images), self.patch_size, self.mean.float(), self.std.float())

    def describe(self, device: str, batch: int) -> str:
        """One line that says which path the loss of a micro-batch takes."""
        pair = f"{type(self.target).__name__} + {type(self.loss).__name__}"
        if self.fused is None:
            path = "target built in full, then compared (no fused kernel for this pair)"
        else:
            path = f"fused patch_loss ({fastmim_kernels.backends()['patch_loss'][device]})"
        return "; ".join(filter(None, [f"{pair}: {path}", self.loss.note(batch)]))
