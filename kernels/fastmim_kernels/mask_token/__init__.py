"""Mask token in the hidden cells of a feature map, without building a mask of the map's size."""

import torch
from torch import Tensor

from .. import _op
from .._check import FLOATS, check_cells, check_one_device
from ..mask_token_backward import mask_token_backward
from . import reference


def mask_token(x: Tensor, hidden: Tensor, token: Tensor, gamma: Tensor | None = None, *, add: bool = False) -> Tensor:
    """Replaces features in hidden cells by a token, or adds the token to them.

    SimMIM (arXiv:2111.09886), section 3.1, "Masked Patch Alignment", replaces features. A2MIM (arXiv:2205.13943),
    section 4.2, adds the token. A2MIM's `mask_init` configurations scale the features first. In a hidden cell:
        out[b, h, w] = token      or (add)      x[b, h, w] + token      or (add, gamma)      gamma * x[b, h, w] + token
    Elsewhere the result is x. Sums are in float32 and rounded once.

    The gradient of x is the incoming gradient; in hidden cells it is 0, or multiplied by gamma. The gradient of token
    is the sum of the incoming gradient over hidden positions. The gradient of gamma is the sum of the product of the
    incoming gradient and x. The sums are in float32, always in the same order.

    Args:
        x: (B, H, W, D) float32, bfloat16 or float16; for float64 the reference runs. No copy is made if x is contiguous
            in this order, for example a permuted view of a channels-last (B, D, H, W) map.
        hidden: (B, rows, columns) bool, True = hidden. H and W are multiples of the cells.
        token: (D,) of any of these types; float64 only if x is.
        gamma: (D,) of any of these types, float64 only if x is; or None.
        add: True = the token is added to the features; required with gamma.
    Returns: (B, H, W, D) of x's type.
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
    """
    args = (x, hidden, token, gamma, add)
    _check(*args)
    plain = _op.using_reference() or x.dtype == torch.float64
    return reference.mask_token(*args) if plain else OP.overload(*args)


def _check(x, hidden, token, gamma, add) -> None:
    dtypes = (*FLOATS, torch.float64) if x.dtype == torch.float64 else FLOATS
    if x.ndim != 4 or x.dtype not in dtypes:
        raise ValueError(f"expected x (B, H, W, D) floating, got {tuple(x.shape)} {x.dtype}")
    if x.shape[:3].numel() >= 2**31:
        raise ValueError(f"expected fewer than 2**31 positions, got {tuple(x.shape[:3])}")
    if gamma is not None and not add:
        raise ValueError("gamma: expected add=True, since gamma scales the features to which the token is added")
    for name, value in (("token", token), ("gamma", gamma)):
        if value is not None and (value.shape != x.shape[3:] or value.dtype not in dtypes):
            raise ValueError(
                f"{name}: expected ({x.shape[3]},) floating, float64 only where x is, "
                f"got {tuple(value.shape)} {value.dtype}"
            )
        if value is not None:
            check_one_device(x, value)
    check_cells(hidden, x)


def _fake(x, hidden, token, gamma, add):
    _check(x, hidden, token, gamma, add)
    return x.new_empty(x.shape)


def _setup_context(ctx, inputs, output):
    x, hidden, token, gamma, ctx.add = inputs
    ctx.token_type = token.dtype
    ctx.save_for_backward(hidden, *(() if gamma is None else (x, gamma)))


def _backward(ctx, grad):
    hidden, x, gamma = ctx.saved_tensors if len(ctx.saved_tensors) == 3 else (*ctx.saved_tensors, None, None)
    dx, token, d_gamma = mask_token_backward(grad, x, hidden, gamma, ctx.add)
    if ctx.add and gamma is None:
        dx = grad
    return dx, None, token.to(ctx.token_type), None if gamma is None else d_gamma.to(gamma.dtype), None


OP = _op.register(
    "mask_token(Tensor x, Tensor hidden, Tensor token, Tensor? gamma, bool add) -> Tensor",
    reference=reference.mask_token,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)
