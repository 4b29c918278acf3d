"""A learned token for the hidden part of a map of features, without a map of where that is."""

import torch
from torch import Tensor

from .. import _check as check
from .. import _op
from ..mask_token_backward import mask_token_backward
from . import reference


def mask_token(x: Tensor, hidden: Tensor, token: Tensor, gamma: Tensor | None = None, *, add: bool = False) -> Tensor:
    """Replaces features by a token, or adds it to them, in the hidden cells.

    SimMIM (arXiv:2111.09886), section 3.1, "Masked Patch Alignment", replaces; A2MIM (arXiv:2205.13943), section 4.2,
    adds the token, and its `mask_init` configurations scale the features first. Where (b, h, w) is in a hidden cell:
        out[b, h, w] = token      or (add)      x[b, h, w] + token      or (add, gamma)      gamma * x[b, h, w] + token
    and x elsewhere, computed in float32 and rounded once. Gradients: of x the incoming one, in hidden cells 0 or times
    gamma; of token its sum over the hidden positions and of gamma that of its product with x, both added in float32,
    always in the same order.

    Args:
        x: (B, H, W, D) float32, bfloat16 or float16, or float64, for which the reference runs. Contiguous in this order
            it is read where it is, as is the permuted view of a channels-last (B, D, H, W) map.
        hidden: (B, rows, columns) bool, True = hidden; H and W are multiples of the cells.
        token: (D,), gamma: (D,) or None, of any of these types; float64 only if x is.
        add: whether the token joins the features; gamma needs it.
    Returns: (B, H, W, D) of x's type.
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
    """
    args = (x, hidden, token, gamma, add)
    _check(*args)
    plain = _op.using_reference() or x.dtype == torch.float64
    return reference.mask_token(*args) if plain else OP.overload(*args)


def _check(x, hidden, token, gamma, add) -> None:
    dtypes = (*check.FLOATS, torch.float64) if x.dtype == torch.float64 else check.FLOATS
    if x.ndim != 4 or x.dtype not in dtypes:
        raise ValueError(f"expected x (B, H, W, D) floating, got {tuple(x.shape)} {x.dtype}")
    if x.shape[:3].numel() >= 2**31:
        raise ValueError(f"expected fewer than 2**31 positions, got {tuple(x.shape[:3])}")
    if gamma is not None and not add:
        raise ValueError("gamma scales what the token is added to; it needs add=True")
    for name, value in (("token", token), ("gamma", gamma)):
        if value is not None and (value.shape != x.shape[3:] or value.dtype not in dtypes):
            raise ValueError(
                f"{name}: expected ({x.shape[3]},) floating, float64 only where x is, "
                f"got {tuple(value.shape)} {value.dtype}"
            )
        if value is not None:
            check.one_device(x, value)
    check.cells_fit(hidden, x)


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
