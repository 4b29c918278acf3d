"""Low-pass-filtered images, PixMIM's target: the discrete Fourier transform pruned to the frequencies that remain."""

import functools
import logging
from typing import Literal

import torch
from torch import Tensor

from .. import _check as check
from .. import _op
from . import reference
from .reference import disc

__all__ = ["disc", "low_pass"]

_MOST_CYCLES = 150
"""At 448 pixels a side torch.fft takes 1.2 times as long at 144 cycles and 0.75 times at 192. Up to there the products
are at least about even with it: whole discs of sides of 224 to 320 pixels, which it takes 0.9 to 2.2 times as long for,
in no order of the side or of the radius's share of it, so that neither makes a better rule."""


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
    """Images without their high frequencies, normalised; of the patches named by `rows` only.

    PixMIM (arXiv:2303.02416), section 3.1; mmselfsup `low_freq_generator.py`. With x the pixels of a channel on the
    0..1 scale and M = 1 on a disc of the frequencies, 0 elsewhere:
        t = (|IDFT2(M . DFT2(x))| - mean) / std
    with the complex modulus, in float32. A constant of the data: no gradient.

    Args:
        images: (B, H, W, C), uint8, which stands for (x / 255 - mean) / std, or floating and already normalised.
        mean, std: (C,) float32, on the 0..1 scale; std > 0.
        radius: of the disc, at least 1 cycle per image. From half the diagonal on everything remains. On a CPU, discs
            that reach further than 150 cycles are left to torch.fft, which takes less time: there it is the reference
            that runs, as a line of log says once.
        center: "official": on sides of an even number of pixels the centre is at frequency -1/2, so that the filtered
            image is complex; "dc": at 0.
        rows: (N,) int64, the patches wanted: b * L + l, l row-major on the (H/p, W/p) grid. The others are 0 in the
            result. None = all.
        patch_size: p, their side; without `rows` it does not matter.
        allow_tf32: one TF32 matrix product in place of three, on GPUs. In an emulation that rounds the operands, on
            images of 224 x 224, the largest error is 1e-3 in the result's units and the rms 2.5e-4, in place of 3e-7
            and 8e-8. The CPU always computes in float32.
    Returns: (B, H, W, C) float32, which `patch_loss` reads with the same `rows`.
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        IndexError, RuntimeError: a row is out of range, CPU only (reference, C++); see patch_loss.
    """
    if center not in ("official", "dc"):
        raise ValueError(f'center: expected "official" or "dc", got {center!r}')
    args = (images, rows, patch_size, mean, std, radius, center == "official", allow_tf32)
    _check(*args)
    # Products with the waves take longer than a fast transform where there are many of them.
    many = images.device.type == "cpu" and min(radius, max(images.shape[1:3]) / 2) > _MOST_CYCLES
    if many and not _op.using_reference():
        _say_left()
    return reference.low_pass(*args) if many or _op.using_reference() else OP.overload(*args)


@functools.cache
def _say_left() -> None:
    logging.getLogger("fastmim_kernels").warning(
        "low_pass: discs that reach further than %d cycles run on the reference, torch.fft, on CPUs", _MOST_CYCLES
    )


def _check(images, rows, patch_size, mean, std, radius, official, allow_tf32) -> None:
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"expected images (B, H, W, C) with pixels, got {tuple(images.shape)}")
    _, height, width, channels = images.shape
    check.patches_fit(height, width, patch_size)
    if images.dtype not in (torch.uint8, *check.FLOATS):
        raise ValueError(f"expected images uint8, float32, bfloat16 or float16, got {images.dtype}")
    if rows is not None and (rows.ndim != 1 or rows.dtype != torch.int64):
        raise ValueError(f"expected rows (N,) int64, got {tuple(rows.shape)} {rows.dtype}")
    if not radius >= 1:
        raise ValueError(f"radius: expected at least 1 cycle per image, got {radius}")
    if images.requires_grad:
        raise ValueError("images: the target is a constant and gives no gradient; detach them")
    check.channel_constants(mean, std, channels)
    check.one_device(images, mean, std, *([] if rows is None else [rows]))


def _fake(images, rows, patch_size, mean, std, radius, official, allow_tf32):
    _check(images, rows, patch_size, mean, std, radius, official, allow_tf32)
    return images.new_empty(images.shape, dtype=torch.float32)


OP = _op.register(
    "low_pass(Tensor images, Tensor? rows, int patch_size, Tensor mean, Tensor std, float radius, bool official, "
    "bool allow_tf32) -> Tensor",
    reference=reference.low_pass,
    fake=_fake,
)
