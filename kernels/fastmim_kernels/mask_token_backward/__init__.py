"""Gradients of mask_token, from one read of the incoming gradient."""

import torch
from torch import Tensor

from .. import _op
from .._check import FLOATS, check_cells, check_one_device
from . import reference


def mask_token_backward(
    grad: Tensor, x: Tensor | None, hidden: Tensor, gamma: Tensor | None, add: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, token and gamma in `mask_token`.

    Args:
        grad: (B, H, W, D) float32, bfloat16 or float16, the gradient of the result.
        x: as in `mask_token` if there is a gamma, else None.
        hidden: see `mask_token`.
        gamma: see `mask_token`.
        add: see `mask_token`.
    Returns: (B, H, W, D) of grad's type, or (0,) if the gradient of x is `grad` itself (`add` without gamma); (D,)
        float32; (D,) float32, or (0,) without gamma.
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
    """
    args = (grad, x, hidden, gamma, add)
    _check(*args)
    return OP.overload(*args)


def _check(grad, x, hidden, gamma, add) -> None:
    if grad.ndim != 4 or grad.dtype not in FLOATS:
        raise ValueError(f"expected grad (B, H, W, D) floating, got {tuple(grad.shape)} {grad.dtype}")
    if (x is None) != (gamma is None) or (gamma is not None and not add):
        raise ValueError("expected both x and gamma with add=True, or neither")
    if gamma is not None:
        if x.shape != grad.shape or x.dtype not in FLOATS:
            raise ValueError(f"x: expected {tuple(grad.shape)} floating, got {tuple(x.shape)} {x.dtype}")
        if gamma.shape != grad.shape[3:] or gamma.dtype not in FLOATS:
            raise ValueError(f"gamma: expected ({grad.shape[3]},) floating, got {tuple(gamma.shape)} {gamma.dtype}")
        check_one_device(grad, x, gamma)
    check_cells(hidden, grad)


def _fake(grad, x, hidden, gamma, add):
    _check(grad, x, hidden, gamma, add)
    sums = [grad.new_empty(n, dtype=torch.float32) for n in (grad.shape[3], 0 if gamma is None else grad.shape[3])]
    return grad.new_empty(0 if add and gamma is None else grad.shape), *sums


OP = _op.register(
    "mask_token_backward(Tensor grad, Tensor? x, Tensor hidden, Tensor? gamma, bool add) "
    "-> (Tensor x, Tensor token, Tensor gamma)",
    reference=reference.mask_token_backward,
    fake=_fake,
)
