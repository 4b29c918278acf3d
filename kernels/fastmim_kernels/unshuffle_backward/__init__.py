"""Gradients of unshuffle, from one read of the incoming gradient."""

import torch
from torch import Tensor

from .. import _op
from .._check import check_gradient
from . import reference


def unshuffle_backward(
    grad: Tensor, ids: Tensor, num_keep: int, raster: bool, dtype: torch.dtype, with_pos: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of latent, of mask_token and, with `with_pos`, of pos_embed in `unshuffle`.

    Args:
        grad: (B, prefix + L, D) float32, bfloat16 or float16, the gradient of the result.
        ids: (B, L) int64, in every row a permutation of the patches.
        num_keep: number of visible patches, which are the first of `ids`.
        raster: True = the rows of `grad` are in raster order, see `unshuffle`.
        dtype: type of the gradient of latent.
        with_pos: True = also returns the gradient of pos_embed, for which `grad` is read a second time.
    Returns: (B, prefix + num_keep, D) of `dtype`; (1, 1, D) float32; (1, prefix + L, D) float32, or (0,) without pos.
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: a row of `ids` is no permutation, on a CPU only.
    """
    args = (grad, ids, num_keep, raster, dtype, with_pos)
    _check(*args)
    return OP.overload(*args)


def _check(grad, ids, num_keep, raster, dtype, with_pos) -> None:
    if grad.ndim != 3 or ids.ndim != 2 or grad.shape[0] != ids.shape[0] or grad.shape[1] < ids.shape[1]:
        raise ValueError(f"expected grad (B, prefix + L, D), ids (B, L), got {tuple(grad.shape)}, {tuple(ids.shape)}")
    if not 0 <= num_keep <= ids.shape[1]:
        raise ValueError(f"num_keep: expected 0 to {ids.shape[1]} visible patches, got {num_keep}")
    check_gradient(grad, ids, dtype)


def _fake(grad, ids, num_keep, raster, dtype, with_pos):
    _check(grad, ids, num_keep, raster, dtype, with_pos)
    batch, total, dim = grad.shape
    latent = grad.new_empty((batch, total - ids.shape[1] + num_keep, dim), dtype=dtype)
    pos_shape = (1, total, dim) if with_pos else (0,)
    return latent, grad.new_empty((1, 1, dim), dtype=torch.float32), grad.new_empty(pos_shape, dtype=torch.float32)


OP = _op.register(
    "unshuffle_backward(Tensor grad, Tensor ids, int num_keep, bool raster, ScalarType dtype, bool with_pos) "
    "-> (Tensor latent, Tensor mask_token, Tensor pos_embed)",
    reference=reference.unshuffle_backward,
    fake=_fake,
)
