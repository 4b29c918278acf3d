"""What encoders of maps share: their input, strided convolutions, and the tokens that stand for hidden content.

May import L1 and L0.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastmim_kernels import mask_token, mean_fill, patch_gather

from ...parts import ImageSpec
from ...tokens import Mask


def compute_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype that a matrix product with this parameter would be done in: autocast's, or its own."""
    device = parameter.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else parameter.dtype


def cut(x: Tensor, side: int) -> Tensor:
    """(..., H, W, C) to (..., H/side, W/side, side*side*C), inside a square (row, column, channel)."""
    return x.unflatten(-2, (-1, side)).unflatten(-4, (-1, side)).transpose(-4, -3).flatten(-3)


def convolve(conv: nn.Conv2d, squares: Tensor) -> Tensor:
    """A convolution whose stride is its kernel, one GEMM on the squares, as `cut`, that it covers."""
    return F.linear(squares, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias)


class DenseInput(nn.Module):
    """`dense(images, mask, dtype) -> (B, C, H, W)`, normalised; with fill "mean", hidden pixels hold the image's mean.

    The mean is of every channel over all pixels, hidden ones too (A2MIM, arXiv:2205.13943; openmixup
    `BlockwiseMaskGenerator`), taken in float32.
    """

    def __init__(self, image: ImageSpec, fill: Literal["none", "mean"] = "none"):
        super().__init__()
        self.fill = fill
        self.register_buffer("mean", torch.tensor(image.mean), persistent=False)
        self.register_buffer("std", torch.tensor(image.std), persistent=False)

    def forward(self, images: Tensor, mask: Mask, dtype: torch.dtype) -> Tensor:
        """images: (B, H, W, C) uint8, or normalised floats."""
        hidden = mask.mask.view(-1, *mask.grid) if self.fill == "mean" else None
        return mean_fill(images, hidden, self.mean.float(), self.std.float(), dtype).permute(0, 3, 1, 2)

    def tokens(
        self, images: Tensor, ids: Tensor, columns: int, patch_size: int, token_size: int, dtype: torch.dtype
    ) -> Tensor:
        """(B, h, w, t*t*C): the tokens of the image that patches `ids` make, `columns` of them side by side.

        Those of a uniform mask, each in the place of its 2x2 block, are what UM-MAE encodes. It compacts the embedded
        map (models_mae_swin.py `forward_encoder`); as its patch embedding never crosses a patch, gathering pixels first
        gives the same values from a quarter of the work.
        """
        x = patch_gather(images, ids, patch_size, self.mean.float(), self.std.float(), dtype, token_size, columns)
        return x.unflatten(1, (-1, columns * patch_size // token_size))

    def compact(self, images: Tensor, mask: Mask, patch_size: int, dtype: torch.dtype) -> Tensor:
        """(B, C, H/2, W/2): the image that the visible patches of a uniform mask make."""
        return self.tokens(images, mask.ids_keep, mask.grid[1] // 2, patch_size, 1, dtype).permute(0, 3, 1, 2)


class MaskToken(nn.Module):
    """A learned token for the hidden part of a feature map: `token(x, hidden)`, both maps or both sequences.

    replace (SimMIM): t. add (A2MIM): x + t. gated (A2MIM's `mask_init` configurations): gamma * x + t, with gamma 1e-6
    at first, which is all but a replacement.
    """

    def __init__(self, dim: int, mode: Literal["replace", "add", "gated"]):
        super().__init__()
        self.mode = mode
        self.mask_token = nn.Parameter(torch.empty(1, dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        if mode == "gated":
            self.mask_gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """x: (B, H, W, D) with the cells (B, rows, columns) of a mask, or (B, L, D) with (B, L)."""
        sequence = x.ndim == 3  # is a map of one row
        if sequence:
            x, hidden = x[:, None], hidden[:, None]
        gamma = self.mask_gamma if self.mode == "gated" else None
        x = mask_token(x, hidden, self.mask_token[0], gamma, add=self.mode != "replace")
        return x[:, 0] if sequence else x
