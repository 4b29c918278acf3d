"""Gradients of mask_token in plain torch: the definition of correct."""

import torch
from torch import Tensor

from ..mask_token.reference import enlarge


def mask_token_backward(grad, x, hidden, gamma, add) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x (B, H, W, D), of token (D,) and of gamma (D,).

    Sums are in float32, or in float64 if `grad` is float64.
    """
    accumulate = torch.promote_types(grad.dtype, torch.float32)
    where, zero, none = enlarge(hidden, grad), grad.new_zeros((), dtype=accumulate), grad.new_empty(0)
    inside = torch.where(where, grad.to(accumulate), zero)
    token = inside.sum((0, 1, 2))
    if gamma is not None:
        dx = torch.where(where, (inside * gamma.to(accumulate)).to(grad.dtype), grad)
        return dx, token, (inside * x.to(accumulate)).sum((0, 1, 2))
    return none if add else torch.where(where, zero.to(grad.dtype), grad), token, none.to(accumulate)
