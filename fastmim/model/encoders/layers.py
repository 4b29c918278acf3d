"""Layers that several encoders use: convolutions as matrix products, and the mask token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastmim_kernels import mask_token

TokenMode = Literal["replace", "add", "gated"]


def compute_dtype(parameter: Tensor) -> torch.dtype:
    """Returns the dtype of a matrix product with this parameter: autocast's, or the parameter's own."""
    device = parameter.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else parameter.dtype


def space_to_depth(x: Tensor, side: int) -> Tensor:
    """Maps (..., H, W, C) to (..., H/side, W/side, side*side*C); inside a square (row, column, channel)."""
    return x.unflatten(-2, (-1, side)).unflatten(-4, (-1, side)).transpose(-4, -3).flatten(-3)


def convolve(conv: nn.Conv2d, squares: Tensor) -> Tensor:
    """Applies a convolution whose stride is its kernel size, as one matrix product.

    Args:
        conv: the convolution.
        squares: (..., side*side*C) pixels of each square, from `space_to_depth`.
    """
    return F.linear(squares, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias)


class MaskToken(nn.Module):
    """A learned token t for the hidden part of a feature map x: `token(x, hidden)`.

    "replace" (SimMIM) gives t. "add" (A2MIM) gives x + t. "gated" (A2MIM's `mask_init` configurations) gives
    gamma * x + t, where gamma starts at 1e-6, so it is almost a replacement at first.
    """

    def __init__(self, dim: int, mode: TokenMode):
        super().__init__()
        self.mode: TokenMode = mode
        self.mask_token = nn.Parameter(torch.empty(1, dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        if mode == "gated":
            self.mask_gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Puts the token at the hidden positions.

        Args:
            x: (B, H, W, D), or (B, L, D).
            hidden: bool, True = hidden; (B, rows, columns) patches of the map, or (B, L).
        """
        sequence = x.ndim == 3
        if sequence:  # the kernel takes maps: a sequence is a map of one row
            x, hidden = x[:, None], hidden[:, None]
        gamma = self.mask_gamma if self.mode == "gated" else None
        x = mask_token(x, hidden, self.mask_token[0], gamma, add=self.mode != "replace")
        return x[:, 0] if sequence else x
