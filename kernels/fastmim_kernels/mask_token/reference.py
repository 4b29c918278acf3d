"""Mask token in a feature map in plain torch: the definition of correct. Differentiable."""

import torch
from torch import Tensor


def enlarge(hidden: Tensor, x: Tensor) -> Tensor:
    """Returns (B, H, W, 1) bool, True for the positions of x (B, H, W, D) in a hidden cell."""
    height, width = x.shape[1] // hidden.shape[1], x.shape[2] // hidden.shape[2]
    return hidden.repeat_interleave(height, 1).repeat_interleave(width, 2)[..., None]


def mask_token(x, hidden, token, gamma, add) -> Tensor:
    accumulate = torch.promote_types(x.dtype, torch.float32)
    value = token.to(accumulate)
    if add:
        value = value + (x.to(accumulate) if gamma is None else gamma.to(accumulate) * x.to(accumulate))
    return torch.where(enlarge(hidden, x), value.to(x.dtype), x)
