"""Named inputs of patch_loss, for its tests (few rows) and its benchmark (real sizes)."""

from dataclasses import dataclass, replace

import torch

from . import patch_loss, reference


@dataclass(frozen=True)
class Case:
    batch: int
    grid: tuple[int, int]
    patch: int
    rows: int
    channels: int = 3
    images: torch.dtype = torch.uint8
    norm_pix: bool = True
    loss: str = "l2"
    layout: str = "contiguous"
    """"strided": pred and images are views with gaps; "constant": every patch holds one value."""


_MAE_B = Case(batch=64, grid=(14, 14), patch=16, rows=64 * 147)
_MAE_H = Case(batch=64, grid=(16, 16), patch=14, rows=64 * 192)
_SIMMIM = Case(batch=64, grid=(6, 6), patch=32, rows=64 * 22, norm_pix=False, loss="l1")

BENCH_DTYPES = ("fp32", "bf16")
BENCH = {
    "mae_vit_b/16 uint8": _MAE_B,
    "mae_vit_b/16 float": replace(_MAE_B, images=torch.float32),
    "mae_vit_b/16 uint8 batch 8": replace(_MAE_B, batch=8, rows=8 * 147),
    "mae_vit_h/14 uint8": _MAE_H,
    "simmim_swin_192 uint8": _SIMMIM,
}

CASES = {
    "mae_vit_b": replace(_MAE_B, batch=2, rows=7),
    "mae_vit_h": replace(_MAE_H, batch=1, rows=5),
    "mae_vit_b_bf16_images": replace(_MAE_B, batch=1, rows=3, images=torch.bfloat16),
    "simmim_swin": replace(_SIMMIM, batch=1, rows=3),
    "simmim_float": replace(_SIMMIM, batch=1, grid=(2, 3), rows=2, images=torch.float32),
    "raw_l2_fp16_images": Case(2, (2, 2), 4, 6, images=torch.float16, norm_pix=False),
    "norm_l1": Case(2, (3, 2), 4, 9, loss="l1"),
    "one_value": Case(1, (1, 1), 1, 1, channels=1, norm_pix=False),
    "one_row": Case(1, (1, 1), 2, 1, channels=1, images=torch.float32),
    "primes": Case(3, (5, 7), 11, 13, channels=1),
    "rectangle": Case(2, (2, 9), 3, 17, channels=4),
    "five_channels": Case(1, (4, 1), 5, 4, channels=5, images=torch.float32),
    "strided": Case(2, (3, 3), 4, 8, layout="strided"),
    "strided_float": Case(2, (3, 3), 4, 8, images=torch.float32, layout="strided"),
    "constant": Case(2, (2, 2), 16, 5, images=torch.float32, layout="constant"),
    "constant_uint8": Case(2, (2, 2), 8, 5, channels=1, layout="constant"),
    "empty": Case(2, (2, 2), 4, 0),
}


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """The arguments of `torch.ops.fastmim.patch_loss`, with `pred` of type `dtype`; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    (rows, columns), p, c = case.grid, case.patch, case.channels
    gap = 2 if case.layout == "strided" else 1
    shape = (case.batch, rows * p, columns * p * gap, c)
    if case.layout == "constant":
        values = torch.randn(case.batch, rows, 1, columns, 1, 1, generator=generator)
        images = values.expand(case.batch, rows, p, columns, p, c).reshape(shape)
    else:
        images = torch.randn(shape, generator=generator)
    images = (images * 60 + 120).clamp(0, 255).to(torch.uint8) if case.images == torch.uint8 else images.to(case.images)
    pred = torch.randn(case.rows, gap * p * p * c, generator=generator).to(dtype)
    total = case.batch * rows * columns
    index = torch.randperm(total, generator=generator)[: case.rows].sort().values
    mean, std = 0.4 + 0.05 * torch.arange(c), 0.2 + 0.01 * torch.arange(c)
    grad_scale = 1.0 if dtype == torch.float16 else 1 / max(case.rows * p * p * c, 1)
    tensors = (pred[:, ::gap].to(device), images[:, :, ::gap].to(device), index.to(device))
    return *tensors, p, mean.to(device), std.to(device), case.norm_pix, case.loss == "l1", grad_scale


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Bytes that loss and gradient cannot do without: hidden pixels and pred read, gradient written."""
    values = case.rows * case.patch**2 * case.channels
    return values * (case.images.itemsize + 2 * dtype.itemsize)


def functions(case: Case, dtype: torch.dtype, device: str):
    """The leaf, and the functions of it that the benchmark runs forward and backward: ours, reference."""
    pred, images, rows, p, mean, std, norm_pix, l1, _ = inputs(case, dtype, device)

    def ours(pred):
        return patch_loss(pred, images, rows, p, mean, std, norm_pix=norm_pix, loss=case.loss)

    def plain(pred):
        return reference.patch_loss(pred, images, rows, p, mean, std, norm_pix, l1)

    return pred.requires_grad_(), {"ours": ours, "reference": plain}
