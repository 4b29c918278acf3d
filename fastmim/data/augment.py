"""RandAugment and colour jitter of single samples, drawn for the sample id."""

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


class Augmenter:
    """A source of random changes for each sample. The decoder later applies the changes in any thread.

    timm and torchvision draw from the global generators of `random`, numpy and torch. These generators are therefore
    seeded for each sample. The state of torch's generators is restored afterwards.

    Args:
        draw: function that draws the changes of one sample from the global generators.
        seed: 0 <= seed < 2**64.
    """

    def __init__(self, draw: Callable[[], list[Change]], seed: int):
        self._draw, self._seed = draw, seed

    def __call__(self, ids: Tensor) -> list[Sequence[Change]]:
        """Returns the changes of each sample, from (B,) int64 sample ids."""
        return [self._drawn(key) for key in philox(self._seed, Stream.AUGMENT, ids, 1)[:, 0].tolist()]

    def _drawn(self, key: int) -> list[Change]:
        random.seed(key)
        np.random.seed(key)
        return self._draw()


def rand_augment(text: str, data: ImageData) -> Callable[[], list[Change]]:
    """Returns a function that draws the changes of timm's RandAugment for one sample.

    The settings are timm's training defaults: shifts of up to 45 %, and the mean colour outside the image. To draw
    without an image, timm's operations receive a list instead, and each one appends a change to that list.

    Args:
        text: RandAugment in timm's form, such as rand-m9-mstd0.5-inc1.
        data: size, mean colour and interpolation of the samples.

    Raises:
        ValueError: `text` is not in timm's form, or images do not have the 3 channels that colour operations need.
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
    """Wraps an operation of timm so that it appends a change to a list instead of changing an image."""

    def add(changes: list[Change], *args: Any, **kwargs: Any) -> list[Change]:
        return [*changes, lambda image: function(image, *args, **kwargs)]

    return add


def _posterize(image: Image.Image, bits: int, **kwargs: Any) -> Image.Image:
    from timm.data.auto_augment import posterize

    # At the largest magnitude timm keeps 0 bits. Older versions of Pillow accept 0, newer ones refuse it.
    return posterize(image, bits, **kwargs) if bits else image.point(lambda value: 0)


def color_jitter(strength: float) -> Callable[[], list[Change]]:
    """Returns a function that draws torchvision's ColorJitter: brightness, contrast and saturation.

    The three changes come in random order.

    Args:
        strength: factors are drawn from 1 - strength to 1 + strength.
    """
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
    """Returns a function that draws SSD's photometric distortion, implemented by torchvision.

    The implementation is `RandomPhotometricDistort`. The strength is that of MMSegmentation's `PhotoMetricDistortion`:
    brightness by up to 32/255, contrast and saturation by up to a half, hue by up to a tenth of the circle, each with
    probability 1/2. Two details differ from MMSegmentation: brightness is scaled, not shifted, and contrast is relative
    to the mean, not to black.
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
