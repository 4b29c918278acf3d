"""Normalised images whose hidden pixels hold the image's mean, for encoders that read whole images."""

import torch
from torch import Tensor

from .. import _op
from .._check import FLOATS, check_cells, check_channel_constants, check_one_device
from . import reference


def mean_fill(images: Tensor, hidden: Tensor | None, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalises images and replaces hidden pixels by the mean of their image.

    A2MIM (arXiv:2205.13943), section 4.2; openmixup `BlockwiseMaskGenerator`:
        out[b, y, x, c] = sum_yx t[b, y, x, c] / (H W)  in hidden cells, else  t[b, y, x, c]
    with t = (x / 255 - mean) / std for uint8 images, rounded to float32 after each step, and t = x for floating images.
    The mean of each channel covers all pixels, hidden pixels too. The mean is summed in float32 (exactly for bytes in
    C++) and rounded to `dtype` once. No argument gets a gradient.

    Args:
        images: (B, H, W, C) uint8, or float32, bfloat16 or float16 and normalised already.
        hidden: (B, rows, columns) bool, True = hidden. H and W are multiples of the cells. None = nothing is hidden.
        mean: (C,) float32, on the 0..1 scale. For uint8 images only.
        std: (C,) float32, on the 0..1 scale. For uint8 images only.
        dtype: type of the result: float32, bfloat16 or float16. For float64 the reference runs; images, mean and std
            may then be float64 too.
    Returns: (B, H, W, C).
    Raises:
        ValueError: shapes, dtypes or devices do not fit together, or `images` requires a gradient.
    """
    args = (images, hidden, mean, std, dtype)
    _check(*args)
    plain = _op.using_reference() or dtype == torch.float64
    return reference.mean_fill(*args) if plain else OP.overload(*args)


def _check(images, hidden, mean, std, dtype) -> None:
    if images.ndim != 4:
        raise ValueError(f"expected images (B, H, W, C), got {tuple(images.shape)}")
    double = (torch.float64,) if dtype == torch.float64 else ()
    if images.dtype not in (torch.uint8, *FLOATS, *double) or dtype not in (*FLOATS, *double):
        raise ValueError(
            "expected images uint8, float32, bfloat16 or float16, for a float64 result also float64, and a floating "
            f"result, got {images.dtype} and {dtype}"
        )
    if images.requires_grad:
        raise ValueError("images: expected a constant, got a tensor that requires a gradient; detach it")
    check_channel_constants(mean, std, images.shape[3], (torch.float32, *double))
    check_one_device(images, mean, std)
    if hidden is not None:
        check_cells(hidden, images)


def _fake(images, hidden, mean, std, dtype):
    _check(images, hidden, mean, std, dtype)
    return images.new_empty(images.shape, dtype=dtype)


OP = _op.register(
    "mean_fill(Tensor images, Tensor? hidden, Tensor mean, Tensor std, ScalarType dtype) -> Tensor",
    reference=reference.mean_fill,
    fake=_fake,
)
