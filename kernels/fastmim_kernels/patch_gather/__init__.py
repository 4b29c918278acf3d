"""Visible patches of an image batch, normalised, in the layout the patch-embedding GEMM reads."""

import torch
from torch import Tensor

from .. import _check as check
from .. import _op
from ..patch_scatter import patch_scatter
from . import reference


def patch_gather(images: Tensor, ids: Tensor, patch_size: int, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """Gathers patches by index and normalises them.

    MAE (arXiv:2111.06377), section 3, "MAE encoder": only visible patches are embedded, so only they are read, which at
    a mask ratio of 0.75 costs a quarter of the bytes. uint8 pixels become (x / 255 - mean) / std, rounded to float32
    after each step and so the same bits from every implementation; floating ones are taken as they are. The gradient
    is that of floating images; mean and std get none.

    Args:
        images: (B, H, W, C) uint8, or float32, bfloat16 or float16 and already normalised.
        ids: (B, K) int64, patches on the row-major (H/p, W/p) grid, distinct within a row.
        mean, std: (C,) float32, on the 0..1 scale; used for uint8 images only.
        dtype: of the result: float32, bfloat16 or float16.
    Returns: (B, K, p*p*C), inside a patch (row, column, channel).
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        IndexError, RuntimeError: an index is out of range, CPU only (reference, C++). On a GPU that check would make
            the host wait on every step: there it is the caller's duty.
    """
    args = (images, ids, patch_size, mean, std, dtype)
    _check(*args)
    return reference.patch_gather(*args) if _op.using_reference() else OP.overload(*args)


def _check(images, ids, patch_size, mean, std, dtype) -> None:
    if images.ndim != 4 or ids.ndim != 2 or ids.shape[0] != images.shape[0]:
        raise ValueError(f"expected images (B, H, W, C) and ids (B, K), got {tuple(images.shape)}, {tuple(ids.shape)}")
    _, height, width, channels = images.shape
    check.patches_fit(height, width, patch_size)
    if images.dtype not in (torch.uint8, *check.FLOATS) or ids.dtype != torch.int64 or dtype not in check.FLOATS:
        raise ValueError(
            "expected images uint8, float32, bfloat16 or float16, ids int64 and a floating result, "
            f"got {images.dtype}, {ids.dtype} and {dtype}"
        )
    check.channel_constants(mean, std, channels)
    check.one_device(images, ids, mean, std)


def _fake(images, ids, patch_size, mean, std, dtype):
    _check(images, ids, patch_size, mean, std, dtype)
    return images.new_empty((*ids.shape, patch_size**2 * images.shape[3]), dtype=dtype)


def _setup_context(ctx, inputs, output):
    images, ids, patch_size, *_ = inputs
    ctx.save_for_backward(ids)
    ctx.images = (images.shape[1], images.shape[2], patch_size, images.dtype)


def _backward(ctx, grad):
    return patch_scatter(grad, *ctx.saved_tensors, *ctx.images), *[None] * 5


OP = _op.register(
    "patch_gather(Tensor images, Tensor ids, int patch_size, Tensor mean, Tensor std, ScalarType dtype) -> Tensor",
    reference=reference.patch_gather,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)
