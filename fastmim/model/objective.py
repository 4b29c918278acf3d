"""Joins a target and a loss: a fused kernel where a pair has one, else the target built and then compared.

Imports losses only; may import L1 and L0.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

import fastmim_kernels
from fastmim_kernels import composite_residual, focal_frequency_loss, patch_loss

from ..parts import ImageSpec, Loss, Target
from ..tokens import Mask, take, unpatchify
from .losses import ComplexFocalL1, FocalFrequency, FourierLoss, MaskedFocalL1, MaskedL1, MaskedL2, WithFourier

# Losses that ops compute from the image itself: their `loss` argument. `patch_loss` is for any target made of patches,
# `composite_residual` computes the spatial part of WithFourier.
FUSED = {MaskedL1: "l1", MaskedL2: "l2", MaskedFocalL1: "focal_l1"}
# What `focal_frequency_loss` computes of its residual images.
SPECTRAL = (FocalFrequency, ComplexFocalL1)


def fused_op(target: Target, loss: Loss) -> str | None:
    """The op that compares with this target without building it, or None."""
    if type(target).__call__ is not Target.__call__:
        return None
    if type(loss) in FUSED:
        return "patch_loss"
    parts = type(loss) is WithFourier and type(loss.spatial) in FUSED
    return "composite_residual" if parts and type(loss.fourier) in SPECTRAL and not target.norm_pix else None


class Objective(nn.Module):
    """`objective(pred, images, mask) -> ()` fp32: the loss averaged over hidden patches.

    pred: (B, M, P) predictions of the patches `mask.ids[:, -M:]`: M = L if the loss sees whole images, else L - K.
    images: (B, H, W, C) uint8 (normalised here) or normalised floats.
    """

    def __init__(self, target: Target, loss: Loss, patch_size: int, image: ImageSpec):
        super().__init__()
        self.target, self.loss, self.patch_size = target, loss, patch_size
        self.register_buffer("mean", torch.tensor(image.mean), persistent=False)
        self.register_buffer("std", torch.tensor(image.std), persistent=False)

    @property
    def op(self) -> str | None:
        """The op that `forward` calls, or None."""
        op = fused_op(self.target, self.loss)
        # The losses themselves are plain torch, and the better reference of an op that is a part of one.
        return None if op == "composite_residual" and fastmim_kernels.using_reference() else op

    @property
    def whole(self) -> bool:
        """True if the loss needs predictions of the visible patches too."""
        return self.loss.whole

    def forward(self, pred: Tensor, images: Tensor, mask: Mask) -> Tensor:
        if self.op == "patch_loss":
            return self.of_hidden(pred, images, mask)
        if self.op == "composite_residual":
            return self.with_fourier(pred, images, mask)
        return self.compare(pred, self.targets(images), mask)

    def of_hidden(self, pred: Tensor, images: Tensor, mask: Mask) -> Tensor:
        """`forward` by `patch_loss`, which reads the pixels that are predicted and no others."""
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
            loss=FUSED[type(self.loss)],
            **asdict(self.loss),
        )

    def with_fourier(self, pred: Tensor, images: Tensor, mask: Mask) -> Tensor:
        """`forward` by `composite_residual`: WithFourier without images of prediction or target."""
        loss = self.loss
        average, spectral = spectral_options(loss.fourier, len(images))
        spatial, residual = composite_residual(
            pred,
            self.source(images),
            mask.ids,
            mask.num_keep,
            self.patch_size,
            self.mean.float(),
            self.std.float(),
            loss=FUSED[type(loss.spatial)],
            **asdict(loss.spatial),
            visible=loss.visible,
            visible_weight=loss.visible_weight,
            average=average,
        )
        return spatial + loss.weight * focal_frequency_loss(residual, **spectral)

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
        if self.op is None:
            why = "kernels = reference" if fused_op(self.target, self.loss) else "no fused kernel for this pair"
            path = f"target built in full, then compared ({why})"
        else:
            backend = fastmim_kernels.backends()[self.op][device]
            path = f"reference of {self.op}" if backend == "reference" else f"fused {self.op} ({backend})"
        return "; ".join(filter(None, [f"{pair}: {path}", self.loss.note(batch)]))


def spectral_options(fourier: FourierLoss, batch: int) -> tuple[int, dict[str, Any]]:
    """Returns how many residual images of a batch are averaged, and the options of `focal_frequency_loss`."""
    if isinstance(fourier, ComplexFocalL1):
        return 1, {"alpha": fourier.alpha, "gamma": fourier.gamma}
    group = fourier.batch if batch % fourier.batch == 0 else batch
    options = {"alpha": fourier.alpha, "log": fourier.log, "peak": fourier.peak, "crops": fourier.crops}
    if fourier.reduce == "batch_mean":
        return group, options
    return 1, options | {"batch": group}
