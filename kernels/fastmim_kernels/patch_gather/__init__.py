"""Visible patches of an image batch, normalised, in the layout that the patch-embedding GEMM reads."""

import torch
from torch import Tensor

from .. import _op
from .._check import FLOATS, check_channel_constants, check_one_device, check_patches, check_tokens
from ..patch_scatter import patch_scatter
from . import reference


def patch_gather(
    images: Tensor,
    ids: Tensor,
    patch_size: int,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype,
    token_size: int | None = None,
    columns: int = 1,
) -> Tensor:
    """Gathers patches by index, normalises them, and cuts them, side by side, into tokens.

    MAE (arXiv:2111.06377), section 3, "MAE encoder": only visible patches are embedded, so only visible patches are
    read: at a mask ratio of 0.75, a quarter of the bytes. UM-MAE (arXiv:2205.10063), section 3.1: one patch of each 2x2
    block is visible, and a pyramid reads these patches as an image of half the side. The pyramid's patch embedding has
    tokens smaller than a patch, which never cross a patch.

    With n = p / t tokens across a patch, value [y, x, c] of patch ids[b, k] goes to
        out[b, ((k // columns) n + y // t) columns n + (k % columns) n + x // t, ((y % t) t + x % t) C + c]
    With t = p, a token is a patch (MAE). With t = 1, tokens are the pixels of an image.

    uint8 pixels x become (x / 255 - mean) / std, rounded to float32 after each step, with the same bits in every
    implementation. Floating pixels are copied. Floating images have a gradient; mean and std have none.

    Args:
        images: (B, H, W, C) uint8, or float32, bfloat16 or float16 and normalised already.
        ids: (B, K) int64, patches on the row-major (H/p, W/p) grid, distinct within a row.
        patch_size: p, pixels along a side of a patch.
        mean: (C,) float32, on the 0..1 scale. For uint8 images only.
        std: (C,) float32, on the 0..1 scale. For uint8 images only.
        dtype: type of the result: float32, bfloat16 or float16.
        token_size: t, pixels along a side of a token; divides patch_size. None = patch_size.
        columns: patches side by side; divides K. Matters only if tokens are smaller than patches.
    Returns: (B, K (p/t)^2, t*t*C), the tokens in raster order, and inside a token (row, column, channel).
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        IndexError: an index is out of range, in the reference on a CPU only.
        RuntimeError: an index is out of range, in C++ only. On a GPU the check would make the host wait in every step;
            there the caller has to pass valid indices.
    """
    args = (images, ids, patch_size, mean, std, dtype, patch_size if token_size is None else token_size, columns)
    _check(*args)
    return reference.patch_gather(*args) if _op.using_reference() else OP.overload(*args)


def _check(images, ids, patch_size, mean, std, dtype, token_size, columns) -> None:
    if images.ndim != 4 or ids.ndim != 2 or ids.shape[0] != images.shape[0]:
        raise ValueError(f"expected images (B, H, W, C) and ids (B, K), got {tuple(images.shape)}, {tuple(ids.shape)}")
    _, height, width, channels = images.shape
    check_patches(height, width, patch_size)
    check_tokens(ids.shape[1], patch_size, token_size, columns)
    if images.dtype not in (torch.uint8, *FLOATS) or ids.dtype != torch.int64 or dtype not in FLOATS:
        raise ValueError(
            "expected images uint8, float32, bfloat16 or float16, ids int64 and a floating result, "
            f"got {images.dtype}, {ids.dtype} and {dtype}"
        )
    check_channel_constants(mean, std, channels)
    check_one_device(images, ids, mean, std)


def _fake(images, ids, patch_size, mean, std, dtype, token_size, columns):
    _check(images, ids, patch_size, mean, std, dtype, token_size, columns)
    tokens = ids.shape[1] * (patch_size // token_size) ** 2
    return images.new_empty((ids.shape[0], tokens, token_size**2 * images.shape[3]), dtype=dtype)


def _setup_context(ctx, inputs, output):
    images, ids, patch_size, _, _, _, token_size, columns = inputs
    ctx.save_for_backward(ids)
    ctx.images = (images.shape[1], images.shape[2], patch_size, images.dtype, token_size, columns)


def _backward(ctx, grad):
    return patch_scatter(grad, *ctx.saved_tensors, *ctx.images), *[None] * 7


OP = _op.register(
    "patch_gather(Tensor images, Tensor ids, int patch_size, Tensor mean, Tensor std, ScalarType dtype, "
    "int token_size, int columns) -> Tensor",
    reference=reference.patch_gather,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)
