"""Trivial predictors: what a loss value would be without learning anything. May import L2 and below."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.objective import Objective
from ..tokens import Mask, take


def trivial_losses(objective: Objective, images: Tensor, mask: Mask) -> dict[str, float]:
    """The loss on hidden patches of three predictors that know only the visible ones.

    * zero: predicts 0 everywhere;
    * mean_patch: the mean of the image's visible target patches;
    * interpolation: the image with its hidden part filled in smoothly from the visible pixels, turned into a target,
      times the one scale that suits these images best (a favour to the predictor: fitting the scale can only help it).

    Args:
        images: (B, H, W, C) uint8.
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
    """Fills hidden patches of (B, H, W, C) images by diffusion from the visible pixels.

    Relaxes towards the harmonic surface through the visible pixels: first on patch means, then, from their bilinear
    enlargement, on pixels.
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
