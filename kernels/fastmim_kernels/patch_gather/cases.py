"""Named inputs of patch_gather, for its tests and its benchmark."""

from dataclasses import dataclass, replace

import torch

from . import patch_gather, reference


@dataclass(frozen=True)
class Case:
    batch: int
    grid: tuple[int, int]
    patch: int
    num_ids: int
    channels: int = 3
    images: torch.dtype = torch.uint8
    strided: bool = False
    """images and ids are views with gaps."""


_MAE_B = Case(batch=64, grid=(14, 14), patch=16, num_ids=49)
_MAE_H = Case(batch=64, grid=(16, 16), patch=14, num_ids=64)

BENCH_DTYPES = ("fp32", "bf16")
BENCH = {
    "mae_vit_b/16, l/16 uint8": _MAE_B,
    "mae_vit_b/16, l/16 uint8 batch 8": replace(_MAE_B, batch=8),
    "mae_vit_b/16, l/16 float": replace(_MAE_B, images=torch.float32),
    "mae_vit_h/14 uint8": _MAE_H,
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
    "no_patches": Case(2, (2, 2), 4, 0),
    "no_images": Case(0, (2, 2), 4, 3),
}


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """The arguments of `torch.ops.fastmim.patch_gather` for a result of type `dtype`; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    (rows, columns), p, c, gap = case.grid, case.patch, case.channels, 1 + case.strided
    shape = (case.batch, rows * p, columns * p * gap, c)
    if case.images == torch.uint8:
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    else:
        images = torch.randn(shape, generator=generator).to(case.images)
    ids = torch.rand(case.batch, rows * columns, generator=generator).argsort(1)[:, : case.num_ids]
    ids = ids.repeat_interleave(gap, dim=1)
    mean, std = 0.4 + 0.05 * torch.arange(c), 0.2 + 0.01 * torch.arange(c)
    return images.to(device)[:, :, ::gap], ids.to(device)[:, ::gap], p, mean.to(device), std.to(device), dtype


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Bytes that cannot be avoided: visible pixels read, the result written."""
    return case.batch * case.num_ids * case.patch**2 * case.channels * (case.images.itemsize + dtype.itemsize)


def functions(case: Case, dtype: torch.dtype, device: str):
    """The images, and the functions of them that the benchmark runs; official normalises and cuts up all patches."""
    images, ids, p, mean, std, _ = inputs(case, dtype, device)
    (rows, columns), c = case.grid, case.channels

    def official(images):
        x = (images.float() / 255 - mean) / std if images.dtype == torch.uint8 else images
        x = x.reshape(-1, rows, p, columns, p, c).transpose(2, 3).reshape(-1, rows * columns, p * p * c)
        return x.gather(1, ids[..., None].expand(-1, -1, p * p * c)).to(dtype)

    return images, {
        "ours": lambda images: patch_gather(images, ids, p, mean, std, dtype),
        "reference": lambda images: reference.patch_gather(images, ids, p, mean, std, dtype),
        "official": official,
    }
