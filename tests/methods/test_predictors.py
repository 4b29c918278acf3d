"""Trivial predictors equal their definitions, which are computed here."""

import pytest
import torch

from fastmim.analysis.trivial_predictors import fill_hidden, trivial_losses
from fastmim.model.losses import MaskedL2
from fastmim.model.masking import RandomMasking
from fastmim.model.objective import Objective
from fastmim.model.targets import Pixels
from fastmim.parts import ImageSpec
from fastmim.tokens import patchify

IDENTITY = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_losses_of_the_predictors():
    images = torch.randint(256, (3, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mask = RandomMasking(0.75)(1, torch.arange(3), (4, 4), 4)
    found = trivial_losses(Objective(Pixels(), MaskedL2(), 4, ImageSpec((16, 16), *IDENTITY)), images, mask)
    pixels = images.float() / 255
    hidden, mean, filled = [], [], []
    for patches, smooth, where in zip(
        patchify(pixels, 4), patchify(fill_hidden(pixels, mask, 4), 4), mask.mask, strict=True
    ):
        hidden.append(patches[where])
        mean.append(patches[~where].mean(dim=0).expand_as(patches[where]))
        filled.append(smooth[where])
    hidden, mean, filled = map(torch.stack, (hidden, mean, filled))
    scale = (filled * hidden).sum() / filled.square().sum()
    for name, pred in {"zero": torch.zeros_like(hidden), "mean_patch": mean, "interpolation": scale * filled}.items():
        assert found[name] == pytest.approx((pred - hidden).square().mean().item(), rel=1e-5), name


def test_filled_pixels_lie_between_the_visible_ones():
    ramp = torch.arange(32.0).expand(2, 8, 32)[..., None]
    mask = RandomMasking(0.5)(0, torch.arange(2), (2, 8), 4)
    filled = patchify(fill_hidden(ramp, mask, 4), 4)
    for ours, given, hidden in zip(filled, patchify(ramp, 4), mask.mask, strict=True):
        visible = given[~hidden]
        assert torch.equal(ours[~hidden], visible)
        assert visible.min() <= ours[hidden].min() and ours[hidden].max() <= visible.max()
