"""Named inputs of patch_scatter, for its tests and its benchmark."""

from dataclasses import dataclass, replace

import torch

from .._targets import PARTS
from ..patch_gather.cases import patch_ids
from . import patch_scatter, reference


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
    images: torch.dtype | None = None
    """Type of the result; None = the type of the gradient."""
    strided: bool = False
    """True = grad and ids are views with gaps."""


_MAE_B = Case(batch=64, grid=(14, 14), patch=16, num_ids=49)
_MAE_H = Case(batch=64, grid=(16, 16), patch=14, num_ids=64)

BENCH_DTYPES = ("fp32", "bf16")
BENCH = {
    "mae_vit_b/16, l/16": _MAE_B,
    "mae_vit_b/16, l/16 batch 8": replace(_MAE_B, batch=8),
    "mae_vit_h/14": _MAE_H,
    "um_mae_swin_t, pvt_s 256": Case(batch=64, grid=(16, 16), patch=16, num_ids=64, token=4, columns=8),
}

CASES = {
    "mae_vit_b": replace(_MAE_B, batch=2),
    "mae_vit_h": replace(_MAE_H, batch=1),
    "to_float": Case(2, (2, 3), 4, 3, images=torch.float32),
    "to_bf16": Case(2, (3, 2), 4, 3, images=torch.bfloat16),
    "to_fp16": Case(1, (3, 2), 4, 3, images=torch.float16),
    "one_value": Case(1, (1, 1), 1, 1, channels=1),
    "all": Case(2, (3, 3), 2, 9),
    "primes": Case(3, (5, 7), 11, 13, channels=1),
    "five_channels": Case(1, (4, 1), 5, 2, channels=5),
    "strided": Case(2, (3, 3), 4, 4, strided=True),
    "um_mae": Case(1, (4, 6), 16, 6, token=4, columns=3),
    "um_mae_odd": Case(3, (6, 10), 6, 15, token=3, columns=5, images=torch.float32),
    "compact_image": Case(2, (4, 6), 8, 6, token=1, columns=3),
    "compact_image_to_bf16": Case(2, (4, 6), 8, 6, token=1, columns=3, images=torch.bfloat16),
    "no_patches": Case(2, (2, 2), 4, 0),
    "no_tokens": Case(2, (2, 2), 4, 0, token=2, columns=3),
    "no_images": Case(0, (2, 2), 4, 3),
}

_VIT_SMALL = Case(batch=1, grid=(8, 9), patch=16, num_ids=49)
VARIANTS = {
    "vit_b/16 fp32": (_VIT_SMALL, torch.float32),
    "vit_b/16 bf16 fp32": (replace(_VIT_SMALL, images=torch.float32), torch.bfloat16),
    "vit_h/14 bf16": (replace(_VIT_SMALL, patch=14), torch.bfloat16),
    "pyramid/4 bf16": (replace(_VIT_SMALL, grid=(16, 16), num_ids=64, token=4, columns=8), torch.bfloat16),
}
PER_IMAGE = (0, 1)
SAME_BITS = True
TARGETS = (PARTS,)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.patch_scatter`, equal on every device.

    dtype: type of `grad`.
    """
    generator = torch.Generator().manual_seed(seed)
    (rows, columns), p, gap = case.grid, case.patch, 1 + case.strided
    t = case.token or p
    shape = (case.batch, case.num_ids * (p // t) ** 2, gap * t * t * case.channels)
    grad = torch.randn(shape, generator=generator).to(device, dtype)
    ids = patch_ids(case, generator).repeat_interleave(gap, dim=1).to(device)
    return grad[..., ::gap], ids[:, ::gap], rows * p, columns * p, p, case.images or dtype, t, case.columns


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided: the gradient read, whole images written."""
    patches = case.num_ids * dtype.itemsize + case.grid[0] * case.grid[1] * (case.images or dtype).itemsize
    return case.batch * patches * case.patch**2 * case.channels


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the gradient, and the functions of the gradient that the benchmark runs."""
    grad, *rest = inputs(case, dtype, device)
    return grad, {
        "ours": lambda grad: patch_scatter(grad, *rest),
        "reference": lambda grad: reference.patch_scatter(grad, *rest),
    }
