"""Named inputs of mean_fill, for its tests and its benchmark."""

from dataclasses import dataclass, replace

import torch

from .._targets import MOVES
from . import mean_fill, reference


@dataclass(frozen=True)
class Case:
    batch: int
    grid: tuple[int, int] | None
    """Cells of the mask; None = nothing is hidden."""
    size: tuple[int, int]
    channels: int = 3
    images: torch.dtype = torch.uint8
    strided: bool = False
    """True = images and hidden are views with gaps."""


_A2MIM = Case(batch=32, grid=(7, 7), size=(224, 224))

BENCH_DTYPES = ("fp32", "bf16")
BENCH = {
    "a2mim 224 uint8": _A2MIM,
    "a2mim 224 uint8, 16-pixel patches": replace(_A2MIM, grid=(14, 14)),
    "a2mim 224 float": replace(_A2MIM, images=torch.float32),
    "normalise 224 uint8": replace(_A2MIM, grid=None),
    "normalise 192 uint8": replace(_A2MIM, grid=None, size=(192, 192)),
}

CASES = {
    "a2mim": Case(2, (4, 4), (64, 64)),
    "normalise": Case(2, None, (32, 48)),
    "float_images": Case(2, (3, 2), (12, 16), images=torch.float32),
    "bf16_images": Case(2, (3, 2), (12, 16), images=torch.bfloat16),
    "fp16_images": Case(2, (3, 2), (12, 16), images=torch.float16),
    "normalised_already": Case(2, None, (12, 16), images=torch.float32),
    "cells_of_one_pixel": Case(2, (5, 7), (5, 7)),
    "one_cell": Case(3, (1, 1), (9, 4)),
    "one_value": Case(1, (1, 1), (1, 1), channels=1),
    "primes": Case(3, (5, 7), (65, 77), channels=1),
    "five_channels": Case(2, (3, 1), (21, 11), channels=5),
    "many_lines": Case(1, (2, 1), (600, 3)),
    "strided": Case(2, (3, 3), (12, 12), strided=True),
    "strided_float": Case(2, (3, 3), (12, 12), images=torch.float32, strided=True),
    "no_images": Case(0, (2, 2), (4, 4)),
}

_IMAGE = Case(batch=1, grid=(7, 7), size=(224, 224))
_FLOAT_IMAGE = replace(_IMAGE, images=torch.float32)
VARIANTS = {
    "sums u8": (_IMAGE, torch.float32),
    "sums fp32": (_FLOAT_IMAGE, torch.float32),
    "224 x 224 u8 fp32 fill": (_IMAGE, torch.float32),
    "224 x 224 u8 bf16 fill": (_IMAGE, torch.bfloat16),
    "224 x 224 u8 bf16": (replace(_IMAGE, grid=None), torch.bfloat16),
    "224 x 224 fp32 fp32 fill": (_FLOAT_IMAGE, torch.float32),
}
PER_IMAGE = (0, 1)
TARGETS = (MOVES,)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.mean_fill`, equal on every device.

    dtype: type of the result.
    """
    generator = torch.Generator().manual_seed(seed)
    (height, width), c, gap = case.size, case.channels, 1 + case.strided
    shape = (case.batch, height, width * gap, c)
    if case.images == torch.uint8:
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    else:
        images = torch.randn(shape, generator=generator).to(case.images)
    hidden = None
    if case.grid is not None:
        hidden = torch.rand(case.batch, case.grid[0], case.grid[1] * gap, generator=generator) < 0.6
        hidden = hidden.to(device)[:, :, ::gap]
    mean, std = 0.4 + 0.05 * torch.arange(c), 0.2 + 0.01 * torch.arange(c)
    return images.to(device)[:, :, ::gap], hidden, mean.to(device), std.to(device), dtype


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided: the images read, the result written."""
    return case.batch * case.size[0] * case.size[1] * case.channels * (case.images.itemsize + dtype.itemsize)


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the images, and the functions of the images that the benchmark runs."""
    images, *rest = inputs(case, dtype, device)
    return images, {
        "ours": lambda images: mean_fill(images, *rest),
        "reference": lambda images: reference.mean_fill(images, *rest),
    }
