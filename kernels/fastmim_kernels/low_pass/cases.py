"""Named inputs of low_pass, for its tests and its benchmark."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from .._targets import Targets
from . import low_pass, reference


@dataclass(frozen=True)
class Case:
    batch: int
    size: tuple[int, int]
    patch: int = 1
    rows: int | None = None
    """Number of wanted patches; None = all."""
    radius: float = 40
    center: Literal["official", "dc"] = "official"
    channels: int = 3
    images: torch.dtype = torch.uint8
    allow_tf32: bool = False
    strided: bool = False
    """True = images is a view with gaps."""


_PIXMIM = Case(batch=64, size=(224, 224), patch=16, rows=64 * 147)
_PIXMIM_8 = replace(_PIXMIM, batch=8, rows=8 * 147)
_ODD = Case(batch=8, size=(225, 190), patch=5, rows=8 * 1282)

BENCH_DTYPES = ("fp32",)
BENCH = {
    "pixmim_vit_b/16 uint8": _PIXMIM,
    "pixmim_vit_b/16 float": replace(_PIXMIM, images=torch.float32),
    "pixmim_vit_b/16 uint8 batch 8": _PIXMIM_8,
    "pixmim_lsmae 448 uint8": replace(_PIXMIM, batch=16, size=(448, 448), patch=16, rows=16 * 588),
    "radius 5 of 224 uint8 batch 8": replace(_PIXMIM_8, radius=5),
    "radius 80 of 224 uint8 batch 8": replace(_PIXMIM_8, radius=80),
    "radius 112 of 224 uint8 batch 8": replace(_PIXMIM_8, radius=112),
    "radius 40 of 225 x 190 uint8 batch 8": _ODD,
    "radius 95 of 225 x 190 uint8 batch 8": replace(_ODD, radius=95),
}

_SMALL = Case(batch=2, size=(32, 32), patch=8, rows=24, radius=6)
CASES = {
    "small": _SMALL,
    "small_float": replace(_SMALL, images=torch.float32),
    "small_bf16": replace(_SMALL, images=torch.bfloat16),
    "small_fp16": replace(_SMALL, images=torch.float16),
    "dc": replace(_SMALL, center="dc"),
    "all_patches": replace(_SMALL, rows=None),
    "one_patch": replace(_SMALL, rows=1),
    "no_patch": replace(_SMALL, rows=0),
    "no_images": replace(_SMALL, batch=0, rows=0),
    "half_of_even": Case(1, (30, 30), 5, 20, radius=7.5),
    "rectangle": Case(2, (48, 20), 4, 60, radius=9, channels=2),
    "odd_and_even": Case(1, (33, 18), 3, 40, radius=5, images=torch.float32),
    "primes": Case(1, (37, 53), 1, 800, radius=11, channels=1),
    "everything_passes": Case(1, (24, 15), 3, 30, radius=100, channels=5),
    "only_the_mean": Case(2, (17, 12), 1, 100, radius=1),
    "one_pixel": Case(2, (1, 1), 1, 2, radius=3),
    "two_by_three": Case(1, (2, 3), 1, 5, radius=1.5),
    "line": Case(1, (1, 70), 1, 60, radius=20),
    "strided": replace(_SMALL, strided=True, images=torch.float32),
}
LARGE_CASES = {
    "pixmim": replace(_PIXMIM, batch=1, rows=147),
    "pixmim_float": replace(_PIXMIM, batch=1, rows=147, images=torch.float32),
    "odd_225": Case(1, (225, 226), 1, None, radius=40),
    "wide_disc": Case(1, (96, 224), 16, 60, radius=130),
}

_PIXMIM_SMALL = replace(_PIXMIM, batch=1, rows=147)
VARIANTS = {
    f"{side} {label}": (case, torch.float32)
    for label, case in {
        "224 uint8": _PIXMIM_SMALL,
        "224 fp32": replace(_PIXMIM_SMALL, images=torch.float32),
        "224 uint8 tf32": replace(_PIXMIM_SMALL, allow_tf32=True),
        "225 bf16": replace(_PIXMIM_SMALL, size=(225, 225), patch=15, images=torch.bfloat16),
    }.items()
    for side in ("forward", "inverse")
}
PER_IMAGE = (0,)
TARGETS = (
    Targets("Low-pass as in PixMIM", cpu={"official": 3}, cuda={"official": 10}, cases="pixmim"),
    Targets("Low-pass of other radii and sizes", cpu={"eager": 1, "official": 1}, cuda={"official": 1}, cases="radius"),
)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.low_pass`, equal on every device.

    dtype: float32, the type of the result.
    """
    generator = torch.Generator().manual_seed(seed)
    (height, width), gap = case.size, 1 + case.strided
    images = torch.randn(case.batch, height, gap * width, case.channels, generator=generator)
    images = (images * 60 + 120).clamp(0, 255).to(torch.uint8) if case.images == torch.uint8 else images.to(case.images)
    rows = None
    if case.rows is not None:
        total = case.batch * (height // case.patch) * (width // case.patch)
        rows = torch.randperm(total, generator=generator)[: case.rows].to(device)
    c = torch.arange(case.channels)
    mean, std = (0.4 + 0.05 * c).to(device), (0.2 + 0.01 * c).to(device)
    images = images.to(device)[:, :, ::gap]
    return images, rows, case.patch, mean, std, case.radius, case.center == "official", case.allow_tf32


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided: the images read, the wanted patches written."""
    values = case.batch * case.size[0] * case.size[1] * case.channels
    wanted = values if case.rows is None else case.rows * case.patch**2 * case.channels
    return values * case.images.itemsize + wanted * dtype.itemsize


def flops(case: Case, mirrors: int = 4) -> int:
    """Counts the operations of the pruned transform and its inverse (real and imaginary part).

    Args:
        case: the shapes.
        mirrors: pixels of a line that share their products with the waves, on sides with an even number of pixels. 4 in
            C++; 2 in Triton, whose programs also repeat some products.
    """
    rows, columns = (2 * (min(math.floor(case.radius + 0.5), n // 2) + 1) for n in case.size)
    groups_y, groups_x = (n / (2 if n % 2 else mirrors) for n in case.size)
    return int(2 * 3 * case.batch * case.channels * (case.size[1] * groups_y * rows + rows * groups_x * columns))


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the images, and the functions of the images that the benchmark runs.

    official: `low_freq_generator.py` of mmselfsup, on images that are normalised already, channels first.
    """
    images, rows, patch, mean, std, radius, official_center, allow_tf32 = inputs(case, dtype, device)
    disc = torch.fft.fftshift(reference.disc(case.size, radius, official_center, torch.device(device)))
    uint8 = images.dtype == torch.uint8
    normalised = (images.float() / 255 - mean) / std if uint8 else images.float()
    planes = normalised.permute(0, 3, 1, 2).contiguous()
    mean_of_plane, std_of_plane = mean[:, None, None], std[:, None, None]

    def official(_):
        spectrum = torch.fft.fftshift(torch.fft.fft2(planes * std_of_plane + mean_of_plane), dim=(-2, -1))
        filtered = torch.fft.ifft2(torch.fft.ifftshift(spectrum * disc, dim=(-2, -1)))
        return (filtered.abs() - mean_of_plane) / std_of_plane

    def ours(images):
        return low_pass(
            images, mean, std, radius=radius, center=case.center, rows=rows, patch_size=patch, allow_tf32=allow_tf32
        )

    def plain(images):
        return reference.low_pass(images, rows, patch, mean, std, radius, official_center, allow_tf32)

    return images, {"ours": ours, "reference": plain, "official": official}
