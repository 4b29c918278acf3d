"""RandAugment and colour jitter of single samples, drawn for the sample id. May import config, tokens and timm."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastmim_kernels.philox import philox

from ..config.base import ImageData
from ..samples import Stream
from .decode import FILTERS, Change, mean_colour


class Drawn:
    """Draws for each sample what will be done to it; whoever decodes does it, in any thread, without any randomness.

    timm and torchvision draw from the global generators of `random`, numpy and torch, which are therefore seeded for
    each sample; torch's are put back.
    """

    def __init__(self, draw: Callable[[], list[Change]], seed: int):
        self._draw, self._seed = draw, seed

    def __call__(self, ids: Tensor) -> list[Sequence[Change]]:
        """(B,) int64 sample ids to what is done to each sample."""
        return [self._drawn(key) for key in philox(self._seed, Stream.AUGMENT, ids, 1)[:, 0].tolist()]

    def _drawn(self, key: int) -> list[Change]:
        random.seed(key)
        np.random.seed(key)
        return self._draw()


def rand_augment(text: str, data: ImageData) -> Callable[[], list[Change]]:
    """timm's RandAugment with its training defaults: mean colour where nothing is, shifts of up to 45 %.

    Its operations are given a list in place of an image, to which they add what they would have done.

    Raises:
        ValueError: not a description of RandAugment; or images are not of 3 channels, which its colour operations need.
    """
    from timm.data.auto_augment import posterize, rand_augment_transform

    if data.image.channels != 3:
        raise ValueError(f"augment.rand_augment needs images of 3 channels, got {data.image.channels}: set it to None")
    settings = {
        "translate_const": int(min(data.size) * 0.45),
        "img_mean": mean_colour(data.mean),
        "interpolation": FILTERS[data.crop.interpolation],
    }
    try:
        transform = rand_augment_transform(text, settings)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"augment.rand_augment: expected timm's form, such as rand-m9-mstd0.5-inc1, got {text!r} ({error})"
        ) from error
    for operation in transform.ops:
        operation.aug_fn = _added(_posterize if operation.aug_fn is posterize else operation.aug_fn)
    return lambda: transform([])


def _added(function: Callable[..., Image.Image]) -> Callable[..., list[Change]]:
    """An operation of timm's that is told to be done later."""

    def add(changes: list[Change], *args: Any, **kwargs: Any) -> list[Change]:
        return [*changes, lambda image: function(image, *args, **kwargs)]

    return add


def _posterize(image: Image.Image, bits: int, **kwargs: Any) -> Image.Image:
    from timm.data.auto_augment import posterize

    # Of the largest magnitude timm keeps 0 bits, which older Pillows took and newer ones refuse.
    return posterize(image, bits, **kwargs) if bits else image.point(lambda value: 0)


def color_jitter(strength: float) -> Callable[[], list[Change]]:
    """torchvision's ColorJitter of brightness, contrast and saturation, in a drawn order."""
    from torchvision.transforms import ColorJitter, functional

    low_high = [max(0.0, 1 - strength), 1 + strength]
    functions = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)

    def draw() -> list[Change]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.getrandbits(63))
            order, *factors, _ = ColorJitter.get_params(low_high, low_high, low_high, None)
        return [
            partial(_adjusted, function=functions[i], factor=factors[i]) for i in order.tolist() if i < len(functions)
        ]

    return draw


def photometric_distortion() -> Callable[[], list[Change]]:
    """SSD's distortion in the strength of MMSegmentation's `PhotoMetricDistortion`, by torchvision.

    Brightness by up to 32 of 255, contrast and saturation by up to a half, hue by up to a tenth of the circle, each
    with a probability of a half. (There brightness is shifted, here scaled; there contrast is about black, here about
    the mean.)
    """
    from torchvision.transforms.v2 import RandomPhotometricDistort

    limit = 32 / 255
    transform = RandomPhotometricDistort(brightness=(1 - limit, 1 + limit), hue=(-0.1, 0.1))

    def draw() -> list[Change]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.getrandbits(63))
            drawn = transform.make_params([torch.empty(3, 1, 1)]) | {"channel_permutation": None}
        return [partial(transform.transform, params=drawn)]

    return draw


def _adjusted(image: Image.Image, function: Callable[[Image.Image, float], Image.Image], factor: float) -> Image.Image:
    return function(image, factor)
