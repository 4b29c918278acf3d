"""Losses of trivial predictors, with which the loss of a model can be compared."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.objective import Objective
from ..tokens import Mask, take


def trivial_losses(objective: Objective, images: Tensor, mask: Mask) -> dict[str, float]:
    """Returns the loss on hidden patches of three predictors that know only the visible patches.

    * "zero" predicts 0 everywhere.
    * "mean_patch" predicts the mean of the image's visible target patches.
    * "interpolation" fills the hidden part smoothly from the visible pixels, and predicts the target of the filled
      image. One scale, fitted to the true targets, multiplies the prediction. The fit can only lower the loss.

    Args:
        objective: target and loss of the run.
        images: (B, H, W, C) uint8.
        mask: the visible and hidden patches of the images.
    """
    target = objective.targets(images)
    hidden = take(target, mask.ids_hidden)
    filled = fill_hidden(objective.normalize(images), mask, objective.patch_size)
    filled = take(objective.targets(filled), mask.ids_hidden)
    scale = (filled * hidden).sum() / filled.square().sum().clamp_min(1e-12)
    predictions = {
        "zero": torch.zeros_like(hidden),
        "mean_patch": take(target, mask.ids_keep).mean(dim=1, keepdim=True).expand_as(hidden),
        "interpolation": scale * filled,
    }
    return {name: objective.compare(pred, target, mask).item() for name, pred in predictions.items()}


def fill_hidden(images: Tensor, mask: Mask, patch_size: int) -> Tensor:
    """Fills the hidden patches of images by diffusion from the visible pixels.

    The result approaches the harmonic surface through the visible pixels. Diffusion runs first on the means of patches.
    Their bilinear enlargement is the start of the diffusion on pixels.

    Args:
        images: (B, H, W, C) floats.
        mask: the visible and hidden patches of the images.
        patch_size: side of a patch, pixels.
    """
    x = images.permute(0, 3, 1, 2)
    visible = ~mask.mask.view(len(images), 1, *mask.grid)
    means = F.avg_pool2d(x, patch_size)
    start = (means * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True)
    coarse = _diffuse(torch.where(visible, means, start), visible, 4 * max(mask.grid))
    known = visible.repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)
    fine = F.interpolate(coarse, scale_factor=patch_size, mode="bilinear")
    return _diffuse(torch.where(known, x, fine), known, 4 * patch_size).permute(0, 2, 3, 1)


def _diffuse(x: Tensor, known: Tensor, steps: int) -> Tensor:
    """Replaces unknown pixels by the mean of their 3x3 neighbourhood, `steps` times."""
    for _ in range(steps):
        x = torch.where(known, x, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1))
    return x
