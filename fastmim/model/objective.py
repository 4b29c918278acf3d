"""The objective: a target and a loss, compared by a fused kernel if the pair has one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn

import fastmim_kernels
from fastmim_kernels import composite_residual, focal_frequency_loss, patch_loss

from ..parts import ImageSpec, Loss, Target
from ..tokens import Mask, take, unpatchify
from .losses import ComplexFocalL1, FocalFrequency, FourierLoss, MaskedFocalL1, MaskedL1, MaskedL2, WithFourier

ElementName = Literal["l1", "l2", "focal_l1"]
FUSED: dict[type[Loss], ElementName] = {MaskedL1: "l1", MaskedL2: "l2", MaskedFocalL1: "focal_l1"}
"""Element-wise losses that kernels compute, and their names in `patch_loss` and `composite_residual`."""
FOCAL_FREQUENCY = (FocalFrequency, ComplexFocalL1)
"""Fourier losses that `focal_frequency_loss` computes from residual images."""


def fused_op(target: Target, loss: Loss) -> str | None:
    """Returns the op that compares predictions with this target without building the target, or None."""
    if type(target).__call__ is not Target.__call__:
        return None
    if type(loss) in FUSED:
        return "patch_loss"
    if type(loss) is not WithFourier or target.standardizes:
        return None
    fused = type(loss.spatial) in FUSED and type(loss.fourier) in FOCAL_FREQUENCY
    return "composite_residual" if fused else None


class Objective(nn.Module):
    """A target and a loss: `objective(pred, images, mask) -> ()` fp32, the mean over hidden patches."""

    mean: Tensor
    """(C,) mean of each channel, on the 0..1 scale."""
    std: Tensor
    """(C,) standard deviation of each channel, on the 0..1 scale."""

    def __init__(self, target: Target, loss: Loss, patch_size: int, image: ImageSpec):
        super().__init__()
        self.target, self.loss, self.patch_size = target, loss, patch_size
        self.register_buffer("mean", torch.tensor(image.mean), persistent=False)
        self.register_buffer("std", torch.tensor(image.std), persistent=False)

    @property
    def op(self) -> str | None:
        """Name of the op that `forward` calls, or None."""
        op = fused_op(self.target, self.loss)
        # The losses are plain torch: a better reference than the reference of an op, which computes a part of a loss.
        return None if op == "composite_residual" and fastmim_kernels.using_reference() else op

    @property
    def whole(self) -> bool:
        """True if the loss needs predictions of the visible patches too."""
        return self.loss.whole

    def forward(self, pred: Tensor, images: Tensor, mask: Mask) -> Tensor:
        """Compares predictions with the target.

        Args:
            pred: (B, M, P) predictions of the patches `mask.ids[:, -M:]`; M = L if the loss is `whole`, else L - K.
            images: (B, H, W, C) uint8, which are normalised here, or normalised floats.
            mask: the hidden patches.
        """
        if self.op == "patch_loss":
            return self.compare_hidden(pred, images, mask)
        if self.op == "composite_residual" and isinstance(self.loss, WithFourier):
            return self.compare_composed(self.loss, pred, images, mask)
        return self.compare(pred, self.targets(images), mask)

    def compare_hidden(self, pred: Tensor, images: Tensor, mask: Mask) -> Tensor:
        """Computes the loss by `patch_loss`, which reads the pixels of hidden patches only."""
        num_patches = mask.grid[0] * mask.grid[1]
        rows = (mask.ids_hidden + torch.arange(len(images), device=images.device)[:, None] * num_patches).flatten()
        return patch_loss(
            pred.flatten(0, 1),
            self.source(images, rows),
            rows,
            self.patch_size,
            self.mean.float(),
            self.std.float(),
            norm_pix=self.target.standardizes,
            loss=FUSED[type(self.loss)],
            **asdict(self.loss),
        )

    def compare_composed(self, loss: WithFourier, pred: Tensor, images: Tensor, mask: Mask) -> Tensor:
        """Computes the loss by `composite_residual`, without images of the prediction or the target."""
        average, options = focal_frequency_options(loss.fourier, len(images))
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
        return spatial + loss.weight * focal_frequency_loss(residual, **options)

    def compare(self, pred: Tensor, target: Tensor, mask: Mask) -> Tensor:
        """Computes the loss by calling it on a target that is built in full.

        A loss that is `whole` treats patches without a prediction as predicted perfectly.

        Args:
            pred: (B, M, P) predictions of the patches `mask.ids[:, -M:]`.
            target: (B, L, P) targets of all patches.
            mask: the hidden patches.
        """
        if not self.whole:
            return self.loss(pred, take(target, mask.ids_hidden))
        index = mask.ids[:, -pred.shape[1] :, None].expand_as(pred)
        predicted = unpatchify(target.scatter(1, index, pred.float()), self.patch_size, mask.grid)
        expected = unpatchify(target, self.patch_size, mask.grid)
        hidden = mask.hidden_map((expected.shape[1], expected.shape[2]))[..., None]
        return self.loss(predicted, expected, hidden)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalises (B, H, W, C) uint8 images to fp32; floats pass unchanged."""
        if images.dtype != torch.uint8:
            return images
        return (images.float() / 255 - self.mean.float()) / self.std.float()

    def source(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """Returns the images whose patches are predicted; see `Target.source`."""
        return self.target.source(images, self.mean.float(), self.std.float(), rows, self.patch_size)

    def targets(self, images: Tensor) -> Tensor:
        """Builds the (B, L, P) targets of all patches, for the unfused path, pictures and trivial predictors."""
        return self.target(self.normalize(images), self.patch_size, self.mean.float(), self.std.float())

    def describe(self, device: str, batch: int) -> str:
        """Describes in one line how the loss of a micro-batch of `batch` images is computed."""
        pair = f"{type(self.target).__name__} + {type(self.loss).__name__}"
        if self.op is None:
            why = "kernels = reference" if fused_op(self.target, self.loss) else "no fused kernel for this pair"
            path = f"target built in full, then compared ({why})"
        else:
            backend = fastmim_kernels.backends()[self.op][device]
            path = f"reference of {self.op}" if backend == "reference" else f"fused {self.op} ({backend})"
        return "; ".join(filter(None, [f"{pair}: {path}", self.loss.note(batch)]))


def focal_frequency_options(fourier: FourierLoss, batch: int) -> tuple[int, dict[str, Any]]:
    """Returns the options with which the op computes a Fourier loss.

    Args:
        fourier: one of the losses `FOCAL_FREQUENCY`.
        batch: images in a micro-batch.

    Returns:
        The number of residual images that are averaged first, and the keyword arguments of `focal_frequency_loss`.

    Raises:
        TypeError: the op does not compute this loss.
    """
    if isinstance(fourier, ComplexFocalL1):
        return 1, {"alpha": fourier.alpha, "gamma": fourier.gamma}
    if not isinstance(fourier, FocalFrequency):
        raise TypeError(f"expected a focal frequency loss, got {type(fourier).__name__}")
    group = fourier.batch if batch % fourier.batch == 0 else batch
    options = {"alpha": fourier.alpha, "log": fourier.log, "peak": fourier.peak, "crops": fourier.crops}
    if fourier.reduce == "batch_mean":
        return group, options
    return 1, options | {"batch": group}
