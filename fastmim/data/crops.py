"""Crops: which part of an image becomes a sample, as a pure function of uniform numbers.

May import tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..parts import Crop, Cut

_ATTEMPTS = 10
_DRAWS_PER_ATTEMPT = 4
_LONGEST = 16
_COVER = 4


@dataclass(frozen=True)
class RandomResizedCrop(Crop):
    """A window of random area and aspect ratio (Inception's; torchvision's algorithm and rounding).

    Up to 10 attempts, each with 4 numbers of its own: area uniform in `scale`, ratio log-uniform in `ratio`, then the
    position; the first window that fits is taken. If none fits: the largest central window with a ratio in `ratio`.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    """Range of the window's area, as a fraction of the image's."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the window's width over its height."""
    clamp: bool = False
    """One attempt only, whose window is made to fit by cutting it down to the image (MAE's linear probe, util/crop.py).
    """

    def __post_init__(self):
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two numbers, 0 < low <= high <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"ratio must be two numbers, 0 < low <= high, got {self.ratio}")

    @property
    def draws(self) -> int:
        return _ATTEMPTS * _DRAWS_PER_ATTEMPT

    def cut(self, image: tuple[int, int], size: tuple[int, int], uniforms: Sequence[float]) -> Cut:
        height, width = image
        log_low, log_high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for attempt in range(0, self.draws, _DRAWS_PER_ATTEMPT):
            u_area, u_ratio, u_top, u_left = uniforms[attempt : attempt + _DRAWS_PER_ATTEMPT]
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * u_area)
            ratio = math.exp(log_low + (log_high - log_low) * u_ratio)
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if self.clamp:
                w, h = min(width, max(1, w)), min(height, max(1, h))
            if 0 < w <= width and 0 < h <= height:
                return Cut((int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w), size)
        w = min(width, max(1, round(height * self.ratio[1])))
        h = min(height, max(1, round(width / self.ratio[0])))
        return Cut(((height - h) // 2, (width - w) // 2, h, w), size)


@dataclass(frozen=True)
class SimpleResizedCrop(Crop):
    """The whole image, made just large enough, bordered by its reflection, and cut at a random place (PixMIM's SRC).

    The shorter edge is resized to the sample's, the other in proportion, rounded down (torchvision's `Resize`), and the
    place is uniform over all whole offsets that stay in the border. For a sample that is not square, the edge that
    needs the larger factor takes the part of the shorter. Of an image longer than 16 times its width, the middle is
    taken, as the whole would need any amount of memory. From mmselfsup's PixMIM config; DeiT III, which it follows,
    has interpolation="bicubic".
    """

    pad: int = 4
    """Width of the reflected border, pixels of the sample."""
    interpolation: Literal["bicubic", "bilinear"] = field(default="bilinear", kw_only=True)
    """Filter of the resize, antialiased."""

    def __post_init__(self):
        if self.pad < 0:
            raise ValueError(f"pad must be at least 0, got {self.pad}")

    @property
    def draws(self) -> int:
        return 2

    def cut(self, image: tuple[int, int], size: tuple[int, int], uniforms: Sequence[float]) -> Cut:
        height, width = min(image[0], _LONGEST * image[1]), min(image[1], _LONGEST * image[0])
        if size[0] * width >= size[1] * height:
            resized = size[0], int(size[0] * width / height)
        else:
            resized = int(size[1] * height / width), size[1]
        top, left = (
            int(u * (full - part + 2 * self.pad + 1)) - self.pad
            for u, full, part in zip(uniforms, resized, size, strict=True)
        )
        window = (image[0] - height) // 2, (image[1] - width) // 2, height, width
        return Cut(window, resized, (top, left))


@dataclass(frozen=True)
class ScaleJitterCrop(Crop):
    """The image scaled by a drawn factor; of what is larger than the sample a part, at a drawn place; the rest padding.

    Large-scale jitter (arXiv:2012.07177), as detectron2's `ResizeScale` and `FixedSizeCrop` do it, and with `fit` =
    "cover" MMSegmentation's `RandomResize` and `RandomCrop`. Image and padding meet as they do there: the image is at
    the top left, the mean colour below and on the right. Windows are whole pixels of the image, so that only what is
    shown is ever resized.
    """

    scale: tuple[float, float] = (0.1, 2.0)
    """Range of the factor, uniform, on top of the one at which the image fits the sample."""
    fit: Literal["inside", "cover"] = "inside"
    """With "inside" the whole image fits inside the sample. With "cover" the image covers the sample, but a long image
    is made no longer than 4 samples (the (2048, 512) of MMSegmentation's ADE20K recipes)."""

    def __post_init__(self):
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ValueError(f"scale must be two numbers, 0 < low <= high, got {self.scale}")

    @property
    def draws(self) -> int:
        return 3

    def cut(self, image: tuple[int, int], size: tuple[int, int], uniforms: Sequence[float]) -> Cut:
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * uniforms[0]
        factor *= fitting(image, size, self.fit)
        sides = [_side(full, part, factor, u) for full, part, u in zip(image, size, uniforms[1:], strict=True)]
        (top, height, rows), (left, width, columns) = sides
        return Cut((top, left, height, width), (rows, columns), padded=True)


def fitting(image: tuple[int, int], size: tuple[int, int], fit: Literal["inside", "cover"]) -> float:
    """The factor at which an image fits a sample of `size`, see `ScaleJitterCrop.fit`."""
    inside, cover = sorted(part / full for part, full in zip(size, image, strict=True))
    return inside if fit == "inside" else min(cover, _COVER * inside)


def move(points: Tensor, cut: Cut, flip: bool) -> Tensor:
    """(..., 2) x and y of points of an image as those of the sample that a cut without offset makes of it.

    Whole numbers are the edges of pixels, as in boxes: an image reaches from 0 to its width.
    """
    (top, left, height, width), (rows, columns) = cut.window, cut.resized
    x, y = (points[..., 0] - left) * columns / width, (points[..., 1] - top) * rows / height
    return torch.stack([columns - x if flip else x, y], dim=-1)


def _side(full: int, part: int, factor: float, u: float) -> tuple[int, int, int]:
    """Along one axis of `full` pixels: start and length of the window, and what that is resized to, at most `part`."""
    if (resized := max(1, round(full * factor))) <= part:
        return 0, full, resized
    window = min(full, max(1, round(part / factor)))
    return int(u * (full - window + 1)), window, part


@dataclass(frozen=True)
class CenterCrop(Crop):
    """The central window of the sample's aspect ratio; for evaluation.

    The usual "resize the shorter side to size / crop_pct, then crop the centre", with the window resized instead of
    the whole image.
    """

    crop_pct: float = 224 / 256
    """Side of the window, as a fraction of the largest one that fits."""

    def __post_init__(self):
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be in (0, 1], got {self.crop_pct}")

    @property
    def draws(self) -> int:
        return 0

    def cut(self, image: tuple[int, int], size: tuple[int, int], uniforms: Sequence[float]) -> Cut:
        height, width = image
        unit = self.crop_pct * min(height / size[0], width / size[1])
        h, w = max(1, round(unit * size[0])), max(1, round(unit * size[1]))
        return Cut(((height - h) // 2, (width - w) // 2, h, w), size)
