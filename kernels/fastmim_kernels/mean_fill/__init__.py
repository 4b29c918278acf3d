"""An image batch normalised, its hidden pixels replaced by the image's mean, for encoders that read whole images."""

import torch
from torch import Tensor

from .. import _check as check
from .. import _op
from . import reference


def mean_fill(images: Tensor, hidden: Tensor | None, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalises images and gives hidden pixels the mean of their image.

    A2MIM (arXiv:2205.13943), section 4.2; openmixup `BlockwiseMaskGenerator`:
        out[b, y, x, c] = sum_yx t[b, y, x, c] / (H W)  where the pixel's cell is hidden, else  t[b, y, x, c]
    with t = (x / 255 - mean) / std for uint8 images, rounded to float32 after each step, and floating ones as they are.
    The mean is of every channel over all pixels, hidden ones too, summed in float32 (bytes in C++: exactly); it is
    rounded to `dtype` once. Nothing here gets a gradient.

    Args:
        images: (B, H, W, C) uint8, or float32, bfloat16 or float16 and already normalised.
        hidden: (B, rows, columns) bool, True = hidden; H and W are multiples of the cells. None: nothing is.
        mean, std: (C,) float32, on the 0..1 scale; used for uint8 images only.
        dtype: of the result: float32, bfloat16 or float16; for float64, which images, mean and std may then be too, the
            reference runs.
    Returns: (B, H, W, C).
    Raises:
        ValueError: shapes, dtypes or devices do not fit together, or images want a gradient.
    """
    args = (images, hidden, mean, std, dtype)
    _check(*args)
    plain = _op.using_reference() or dtype == torch.float64
    return reference.mean_fill(*args) if plain else OP.overload(*args)


def _check(images, hidden, mean, std, dtype) -> None:
    if images.ndim != 4:
        raise ValueError(f"expected images (B, H, W, C), got {tuple(images.shape)}")
    double = (torch.float64,) if dtype == torch.float64 else ()
    if images.dtype not in (torch.uint8, *check.FLOATS, *double) or dtype not in (*check.FLOATS, *double):
        raise ValueError(
            "expected images uint8, float32, bfloat16 or float16, for a float64 result also float64, and a floating "
            f"result, got {images.dtype} and {dtype}"
        )
    if images.requires_grad:
        raise ValueError("images get no gradient from mean_fill; detach them")
    check.channel_constants(mean, std, images.shape[3], (torch.float32, *double))
    check.one_device(images, mean, std)
    if hidden is not None:
        check.cells_fit(hidden, images)


def _fake(images, hidden, mean, std, dtype):
    _check(images, hidden, mean, std, dtype)
    return images.new_empty(images.shape, dtype=dtype)


OP = _op.register(
    "mean_fill(Tensor images, Tensor? hidden, Tensor mean, Tensor std, ScalarType dtype) -> Tensor",
    reference=reference.mean_fill,
    fake=_fake,
)
