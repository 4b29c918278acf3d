"""Named inputs of patch_gather, for its tests and its benchmark."""

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from .._targets import MOVES
from . import patch_gather, reference


@dataclass(frozen=True)
class Case:
    batch: int
    grid: tuple[int, int]
    patch: int
    num_ids: int
    channels: int = 3
    token: int | None = None
    """Pixels along a side of a token; None = patch."""
    columns: int = 1
    images: torch.dtype = torch.uint8
    strided: bool = False
    """True = images and ids are views with gaps."""


_MAE_B = Case(batch=64, grid=(14, 14), patch=16, num_ids=49)
_MAE_H = Case(batch=64, grid=(16, 16), patch=14, num_ids=64)
_UM = Case(batch=64, grid=(16, 16), patch=16, num_ids=64, token=4, columns=8)

BENCH_DTYPES = ("fp32", "bf16")
BENCH = {
    "mae_vit_b/16, l/16 uint8": _MAE_B,
    "mae_vit_b/16, l/16 uint8 batch 8": replace(_MAE_B, batch=8),
    "mae_vit_b/16, l/16 float": replace(_MAE_B, images=torch.float32),
    "mae_vit_h/14 uint8": _MAE_H,
    "um_mae_swin_t, pvt_s 256 uint8": _UM,
    "um_mae_swin_t, pvt_s 256 uint8 batch 8": replace(_UM, batch=8),
    "um_mae_swin_t, pvt_s 256 float": replace(_UM, images=torch.float32),
    "um_mae_convnet 256 uint8": replace(_UM, token=1),
    "convmae_b uint8": replace(_MAE_B, token=4),
    "lsmae 448/16 uint8": Case(batch=16, grid=(28, 28), patch=16, num_ids=196),
}

CASES = {
    "mae_vit_b": replace(_MAE_B, batch=2),
    "mae_vit_h": replace(_MAE_H, batch=1),
    "float_images": replace(_MAE_B, batch=1, num_ids=5, images=torch.float32),
    "bf16_images": Case(2, (2, 3), 4, 3, images=torch.bfloat16),
    "fp16_images": Case(2, (3, 2), 4, 3, images=torch.float16),
    "one_value": Case(1, (1, 1), 1, 1, channels=1),
    "all": Case(2, (3, 3), 2, 9),
    "primes": Case(3, (5, 7), 11, 13, channels=1),
    "five_channels": Case(1, (4, 1), 5, 2, channels=5),
    "strided": Case(2, (3, 3), 4, 4, strided=True),
    "strided_float": Case(2, (3, 3), 4, 4, images=torch.float32, strided=True),
    "um_mae": replace(_UM, batch=1),
    "um_mae_odd": Case(3, (6, 10), 6, 15, token=3, columns=5),
    "um_mae_float": Case(2, (4, 6), 8, 6, token=4, columns=3, images=torch.float32),
    "um_mae_bf16": Case(2, (4, 6), 8, 6, token=2, columns=3, images=torch.bfloat16),
    "compact_image": Case(2, (4, 6), 8, 6, token=1, columns=3),
    "compact_image_float": Case(2, (4, 6), 4, 6, token=1, columns=3, images=torch.float32),
    "convmae": replace(_MAE_B, batch=1, token=4),
    "no_patches": Case(2, (2, 2), 4, 0),
    "no_tokens": Case(2, (2, 2), 4, 0, token=2, columns=3),
    "no_images": Case(0, (2, 2), 4, 3),
}

_VIT_SMALL = Case(batch=2, grid=(4, 4), patch=16, num_ids=4)
_PYRAMID_SMALL = replace(_VIT_SMALL, token=4, columns=2)
VARIANTS = {
    "vit_b/16 uint8 fp32": (_VIT_SMALL, torch.float32),
    "vit_b/16 uint8 bf16": (_VIT_SMALL, torch.bfloat16),
    "vit_b/16 fp32 bf16": (replace(_VIT_SMALL, images=torch.float32), torch.bfloat16),
    "vit_h/14 uint8 bf16": (replace(_VIT_SMALL, patch=14), torch.bfloat16),
    "pyramid/4 uint8 fp32": (_PYRAMID_SMALL, torch.float32),
    "pyramid/4 uint8 bf16": (_PYRAMID_SMALL, torch.bfloat16),
    "image uint8 bf16": (replace(_PYRAMID_SMALL, token=1), torch.bfloat16),
}
PER_IMAGE = (0, 1)
SAME_BITS = True
TARGETS = (MOVES,)


def patch_ids(case, generator: torch.Generator) -> torch.Tensor:
    """Returns (B, K) patches, distinct within an image.

    If the grid has K blocks of 2x2 patches, the result has one patch of each block, in the order of the blocks.
    """
    rows, columns = case.grid
    if (rows, columns) != (2 * case.num_ids // case.columns, 2 * case.columns):
        return torch.rand(case.batch, rows * columns, generator=generator).argsort(1)[:, : case.num_ids]
    block, corner = torch.arange(case.num_ids), torch.randint(4, (case.batch, case.num_ids), generator=generator)
    return (2 * (block // case.columns) + corner // 2) * columns + 2 * (block % case.columns) + corner % 2


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.patch_gather`, equal on every device.

    dtype: type of the result.
    """
    generator = torch.Generator().manual_seed(seed)
    (rows, columns), p, c, gap = case.grid, case.patch, case.channels, 1 + case.strided
    shape = (case.batch, rows * p, columns * p * gap, c)
    if case.images == torch.uint8:
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    else:
        images = torch.randn(shape, generator=generator).to(case.images)
    ids = patch_ids(case, generator).repeat_interleave(gap, dim=1)
    mean, std = 0.4 + 0.05 * torch.arange(c), 0.2 + 0.01 * torch.arange(c)
    constants = (mean.to(device), std.to(device), dtype, case.token or p, case.columns)
    return images.to(device)[:, :, ::gap], ids.to(device)[:, ::gap], p, *constants


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided: the visible pixels read, the result written."""
    return case.batch * case.num_ids * case.patch**2 * case.channels * (case.images.itemsize + dtype.itemsize)


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the images, and the functions of the images that the benchmark runs.

    official: all pixels are normalised and cut into patches. MAE then gathers patches. UM-MAE sums the tokens of a 2x2
    block by a convolution, with hidden tokens set to zero. (UM-MAE embeds the tokens first. The benchmark leaves this
    step out, in favour of UM-MAE.)
    """
    images, ids, p, *rest = inputs(case, dtype, device)
    mean, std, _, t, columns = rest
    (rows, grid_columns), c = case.grid, case.channels

    def normalize(images):
        return (images.float() / 255 - mean) / std if images.dtype == torch.uint8 else images

    def gather(images):
        x = normalize(images).reshape(-1, rows, p, grid_columns, p, c).transpose(2, 3)
        x = x.reshape(-1, rows * grid_columns, p * p * c).gather(1, ids[..., None].expand(-1, -1, p * p * c))
        return x.to(dtype)

    visible = torch.zeros(case.batch, rows * grid_columns, dtype=torch.bool, device=device).scatter(1, ids, True)
    visible = visible.view(-1, 1, rows, grid_columns).repeat_interleave(p // t, 2).repeat_interleave(p // t, 3)

    def compact(images):
        n = p // t
        x = F.pixel_unshuffle(normalize(images).permute(0, 3, 1, 2), t) * visible
        x = x.unflatten(2, (-1, 2 * n)).unflatten(4, (-1, 2 * n)).permute(0, 2, 4, 1, 3, 5)
        x = F.conv2d(x.flatten(0, 2), x.new_ones(t * t * c, 1, 2, 2), dilation=n, groups=t * t * c)
        x = x.unflatten(0, (case.batch, rows // 2, columns)).permute(0, 3, 1, 4, 2, 5)
        return x.flatten(4).flatten(2, 3).to(dtype)

    return images, {
        "ours": lambda images: patch_gather(images, ids, p, *rest),
        "reference": lambda images: reference.patch_gather(images, ids, p, *rest),
        "official": gather if columns == 1 else compact,
    }
