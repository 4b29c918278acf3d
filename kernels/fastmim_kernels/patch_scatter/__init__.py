"""Patches put back into an otherwise black image batch: the backward of patch_gather."""

import torch
from torch import Tensor

from .. import _check as check
from .. import _op
from . import reference


def patch_scatter(grad: Tensor, ids: Tensor, height: int, width: int, patch_size: int, dtype: torch.dtype) -> Tensor:
    """Writes every pixel once: patch ids[b, k] is grad[b, k], the patches not named are 0.

    Args:
        grad: (B, K, p*p*C) float32, bfloat16 or float16, inside a patch (row, column, channel).
        ids: (B, K) int64, patches on the row-major (height/p, width/p) grid, distinct within a row.
        height, width: of the images, in pixels.
        dtype: of the result: float32, bfloat16 or float16.
    Returns: (B, height, width, C).
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: an index is out of range, CPU only.
    """
    args = (grad, ids, height, width, patch_size, dtype)
    _check(*args)
    return OP.overload(*args)


def _check(grad, ids, height, width, patch_size, dtype) -> None:
    if grad.ndim != 3 or grad.shape[:2] != ids.shape:
        raise ValueError(f"expected grad (B, K, p*p*C) and ids (B, K), got {tuple(grad.shape)} and {tuple(ids.shape)}")
    if patch_size < 1 or height % patch_size or width % patch_size or grad.shape[2] % patch_size**2:
        raise ValueError(
            f"images of {height} x {width} and rows of {grad.shape[2]} values are not made of patches of {patch_size}"
        )
    check.gradient(grad, ids, dtype)


def _fake(grad, ids, height, width, patch_size, dtype):
    _check(grad, ids, height, width, patch_size, dtype)
    return grad.new_empty((grad.shape[0], height, width, grad.shape[2] // patch_size**2), dtype=dtype)


OP = _op.register(
    "patch_scatter(Tensor grad, Tensor ids, int height, int width, int patch_size, ScalarType dtype) -> Tensor",
    reference=reference.patch_scatter,
    fake=_fake,
)
