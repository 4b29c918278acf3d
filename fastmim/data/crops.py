"""Crops choose the part of an image that a sample shows.

They are pure functions of the image's size and of uniform random numbers.
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
_LONGEST = 16  # largest aspect ratio in `SimpleResizedCrop`
_COVER = 4  # largest scale of `fit` = "cover", relative to the scale of "inside"


@dataclass(frozen=True)
class RandomResizedCrop(Crop):
    """A window of random area and aspect ratio, with torchvision's algorithm and rounding (Inception).

    Each of up to 10 attempts draws the area uniformly in `scale`, the ratio log-uniformly in `ratio`, and the position.
    The first window that fits is used. If none fits, the largest central window with a ratio in `ratio` is used.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    """Range of the window's area, as a fraction of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the window's width / height."""
    clamp: bool = False
    """True = a single attempt, whose window is clipped to the image (MAE's linear probe, util/crop.py)."""

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
    """A crop of the whole image, resized to cover the sample and padded by reflection (PixMIM's SRC).

    The shorter edge is resized to the sample's edge, the other edge in proportion, rounded down as in torchvision's
    `Resize`. The sample is then cut at a uniform random offset in the padded image. For a sample that is not square,
    "shorter" means the edge that needs the larger factor. If an image is longer than 16 times its width, only the
    middle is used. This limits the memory.

    Source: mmselfsup's PixMIM config. DeiT III, the source of that config, uses interpolation="bicubic".
    """

    pad: int = 4
    """Width of the reflected border, in pixels of the sample."""
    interpolation: Literal["bicubic", "bilinear"] = field(default="bilinear", kw_only=True)
    """Interpolation of the resize, antialiased."""

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
    """Large-scale jitter (arXiv:2012.07177): the image is scaled randomly, then cropped or padded.

    Along an axis where the scaled image is larger than the sample, the sample shows a part at a random place. Along an
    axis where the scaled image is smaller, the image is at the top left, and the mean colour fills the rest. With `fit`
    = "inside" this is detectron2's `ResizeScale` and `FixedSizeCrop`, with "cover" MMSegmentation's `RandomResize` and
    `RandomCrop`. Windows are whole pixels of the image, so that only the visible part is resized.
    """

    scale: tuple[float, float] = (0.1, 2.0)
    """Range of the uniform random factor, relative to the scale of `fit`."""
    fit: Literal["inside", "cover"] = "inside"
    """Scale at which the factor is 1.
    "inside": the whole image fits inside the sample. "cover": the image covers the sample, but is at most 4 samples
    long (the (2048, 512) of MMSegmentation's ADE20K recipes)."""

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
    """Returns the factor that scales an image (height, width) to fit a sample (height, width).

    See `ScaleJitterCrop.fit`.
    """
    inside, cover = sorted(part / full for part, full in zip(size, image, strict=True))
    return inside if fit == "inside" else min(cover, _COVER * inside)


def move(points: Tensor, cut: Cut, flip: bool) -> Tensor:
    """Moves points from an image to a sample that is cut from the image without offset.

    Args:
        points: (..., 2), x and y in pixels. Whole numbers are edges of pixels, as in boxes.
        cut: the part of the image that the sample shows.
        flip: True flips the sample left to right.

    Returns: (..., 2), x and y in the sample.
    """
    (top, left, height, width), (rows, columns) = cut.window, cut.resized
    x, y = (points[..., 0] - left) * columns / width, (points[..., 1] - top) * rows / height
    return torch.stack([columns - x if flip else x, y], dim=-1)


def _side(full: int, part: int, factor: float, u: float) -> tuple[int, int, int]:
    """Returns start, length and resized length of the window along an axis.

    The axis has `full` pixels in the image. The resized length is at most `part`.
    """
    if (resized := max(1, round(full * factor))) <= part:
        return 0, full, resized
    window = min(full, max(1, round(part / factor)))
    return int(u * (full - window + 1)), window, part


@dataclass(frozen=True)
class CenterCrop(Crop):
    """The central window with the sample's aspect ratio, for evaluation.

    The result equals the usual "resize the shorter side to size / crop_pct, then crop the centre". Here only the window
    is resized.
    """

    crop_pct: float = 224 / 256
    """Side of the window, as a fraction of the largest window that fits."""

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
