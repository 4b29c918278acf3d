"""Patches written into a batch of images that is zero elsewhere: the backward pass of patch_gather."""

import torch
from torch import Tensor

from .. import _op
from .._check import check_gradient, check_patches, check_tokens
from . import reference


def patch_scatter(
    grad: Tensor,
    ids: Tensor,
    height: int,
    width: int,
    patch_size: int,
    dtype: torch.dtype,
    token_size: int | None = None,
    columns: int = 1,
) -> Tensor:
    """Writes the k-th patch of the tokens of image b at patch ids[b, k], and zeros everywhere else.

    Args:
        grad: (B, K (p/t)^2, t*t*C) float32, bfloat16 or float16, tokens in the layout of `patch_gather`.
        ids: (B, K) int64, patches on the row-major (height/p, width/p) grid, distinct within a row.
        height: height of the images, in pixels.
        width: width of the images, in pixels.
        patch_size: p, pixels along a side of a patch.
        dtype: type of the result: float32, bfloat16 or float16.
        token_size: see `patch_gather`.
        columns: see `patch_gather`.
    Returns: (B, height, width, C).
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: an index is out of range, on a CPU only.
    """
    args = (grad, ids, height, width, patch_size, dtype, patch_size if token_size is None else token_size, columns)
    _check(*args)
    return OP.overload(*args)


def _check(grad, ids, height, width, patch_size, dtype, token_size, columns) -> None:
    if grad.ndim != 3 or ids.ndim != 2:
        raise ValueError(f"expected grad (B, N, t*t*C) and ids (B, K), got {tuple(grad.shape)} and {tuple(ids.shape)}")
    check_patches(height, width, patch_size)
    check_tokens(ids.shape[1], patch_size, token_size, columns)
    tokens = ids.shape[1] * (patch_size // token_size) ** 2
    if grad.shape[:2] != (ids.shape[0], tokens) or grad.shape[2] % token_size**2:
        raise ValueError(
            f"expected grad {(ids.shape[0], tokens)} and a multiple of {token_size**2} values a token for "
            f"{ids.shape[1]} patches of {patch_size}, got {tuple(grad.shape)}"
        )
    check_gradient(grad, ids, dtype)


def _fake(grad, ids, height, width, patch_size, dtype, token_size, columns):
    _check(grad, ids, height, width, patch_size, dtype, token_size, columns)
    return grad.new_empty((grad.shape[0], height, width, grad.shape[2] // token_size**2), dtype=dtype)


OP = _op.register(
    "patch_scatter(Tensor grad, Tensor ids, int height, int width, int patch_size, ScalarType dtype, "
    "int token_size, int columns) -> Tensor",
    reference=reference.patch_scatter,
    fake=_fake,
)
