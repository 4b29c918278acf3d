"""Low-pass filter of images by a pruned Fourier transform, for PixMIM's target."""

import functools
import logging
from typing import Literal

import torch
from torch import Tensor

from .. import _op
from .._check import FLOATS, check_channel_constants, check_one_device, check_patches
from . import reference
from .reference import disc

__all__ = ["disc", "low_pass"]

_MOST_CYCLES = 150
"""Largest disc, in cycles, that CPUs filter with products of waves; torch.fft filters larger discs.

Measured: at 448 pixels a side, torch.fft takes 1.2 times as long as the products at 144 cycles, and 0.75 times as long
at 192 cycles. For whole discs at 224 to 320 pixels, torch.fft takes 0.9 to 2.2 times as long. This ratio follows
neither the side nor the radius divided by the side. So a rule on either of these would be no better.
"""


def low_pass(
    images: Tensor,
    mean: Tensor,
    std: Tensor,
    *,
    radius: float,
    center: Literal["official", "dc"] = "official",
    rows: Tensor | None = None,
    patch_size: int = 1,
    allow_tf32: bool = False,
) -> Tensor:
    """Removes the high frequencies of images, in the patches named by `rows`, and normalises the result.

    Source: PixMIM (arXiv:2303.02416), section 3.1; mmselfsup `low_freq_generator.py`. With x the pixels of a channel on
    the 0..1 scale, and M = 1 on a disc of frequencies and 0 elsewhere:
        t = (|IDFT2(M . DFT2(x))| - mean) / std
    with the complex modulus, in float32. The target is a constant of the data and has no gradient.

    Args:
        images: (B, H, W, C). uint8 values x stand for (x / 255 - mean) / std; floating values are normalised already.
        mean: (C,) float32, on the 0..1 scale.
        std: (C,) float32, on the 0..1 scale, above 0.
        radius: radius of the disc, at least 1 cycle per image. From half the diagonal on, every frequency remains. On a
            CPU, discs beyond 150 cycles run on the reference, torch.fft, which takes less time. A log line says so.
        center: "official" = on sides with an even number of pixels, the centre is at frequency -1/2, so that the
            filtered image is complex. "dc" = the centre is at 0.
        rows: (N,) int64, the wanted patches: b * L + l, with l row-major on the (H/p, W/p) grid. All other values of
            the result are 0. None = all patches.
        patch_size: p, pixels along a side of a patch. Ignored without `rows`.
        allow_tf32: True = one TF32 matrix product instead of three, on GPUs; the CPU always computes in float32. In an
            emulation that rounds the operands, on images of 224 x 224, the largest error is 1e-3 in the units of the
            result, and the rms error 2.5e-4. With three products these errors are 3e-7 and 8e-8.
    Returns: (B, H, W, C) float32, which `patch_loss` reads with the same `rows`.
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        IndexError: a row is out of range, in the reference on a CPU only.
        RuntimeError: a row is out of range, in C++ only; see `patch_loss`.
    """
    if center not in ("official", "dc"):
        raise ValueError(f'center: expected "official" or "dc", got {center!r}')
    args = (images, rows, patch_size, mean, std, radius, center == "official", allow_tf32)
    _check(*args)
    # With many waves, products take longer than a fast transform.
    many = images.device.type == "cpu" and min(radius, max(images.shape[1:3]) / 2) > _MOST_CYCLES
    if many and not _op.using_reference():
        _log_reference()
    return reference.low_pass(*args) if many or _op.using_reference() else OP.overload(*args)


@functools.cache
def _log_reference() -> None:
    logging.getLogger("fastmim_kernels").warning(
        "low_pass: on CPUs, discs beyond %d cycles run on the reference, torch.fft", _MOST_CYCLES
    )


def _check(images, rows, patch_size, mean, std, radius, official, allow_tf32) -> None:
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"expected images (B, H, W, C) with pixels, got {tuple(images.shape)}")
    _, height, width, channels = images.shape
    check_patches(height, width, patch_size)
    if images.dtype not in (torch.uint8, *FLOATS):
        raise ValueError(f"expected images uint8, float32, bfloat16 or float16, got {images.dtype}")
    if rows is not None and (rows.ndim != 1 or rows.dtype != torch.int64):
        raise ValueError(f"expected rows (N,) int64, got {tuple(rows.shape)} {rows.dtype}")
    if not radius >= 1:
        raise ValueError(f"radius: expected at least 1 cycle per image, got {radius}")
    if images.requires_grad:
        raise ValueError("images: expected a constant, got a tensor that requires a gradient; detach it")
    check_channel_constants(mean, std, channels)
    check_one_device(images, mean, std, *([] if rows is None else [rows]))


def _fake(images, rows, patch_size, mean, std, radius, official, allow_tf32):
    _check(images, rows, patch_size, mean, std, radius, official, allow_tf32)
    return images.new_empty(images.shape, dtype=torch.float32)


OP = _op.register(
    "low_pass(Tensor images, Tensor? rows, int patch_size, Tensor mean, Tensor std, float radius, bool official, "
    "bool allow_tf32) -> Tensor",
    reference=reference.low_pass,
    fake=_fake,
)
