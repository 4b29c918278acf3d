"""The Swin of UM-MAE: windows, and a position bias from an MLP of the distance. May import timm, L1 and L0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tokens import Masking
from .um_pyramid import PATCH, TOKEN, PyramidBlock, PyramidEncoder, UMPyramid

OUTSIDE = -100.0
"""Added to the score of two tokens that share a window only because the map was rolled."""


@dataclass(frozen=True)
class UMSwin(UMPyramid):
    """The Swin of UM-MAE (arXiv:2205.10063; models_mae_swin.py); defaults are Swin-T's."""

    embed_dim: int = 96
    """Width of the first stage; each later one is twice as wide."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks in each stage."""
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    """Attention heads in each stage."""
    window: int = 16
    """Side of a window, tokens of the whole image; half as many of a compacted one. Where the map is no multiple of
    it, windows are of the next smaller side that fits."""
    posmlp_dim: int = 32
    """Hidden width of the position MLP."""

    patch_norm: ClassVar[bool] = True

    @property
    def widths(self) -> list[int]:
        return [self.embed_dim << stage for stage in range(len(self.depths))]

    def block(self, stage: int, downsample: nn.Module | None) -> nn.Module:
        dim = self.widths[stage]
        return PyramidBlock(dim, WindowAttention(dim, self.num_heads[stage], self.posmlp_dim), 4, downsample)

    def build(
        self, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...], masking: Masking
    ) -> nn.Module:
        """
        Raises:
            ValueError: fields, image size or masking do not fit.
        """
        self.check(size, masking)
        if self.window < 2 or self.window % 2:
            raise ValueError(f"encoder.window={self.window}: expected an even number of tokens, at least 2")
        for side in size:
            if not self.fits(side):
                near = min(
                    filter(self.fits, range(self.unit, 2 * side + 8 * self.unit, self.unit)),
                    key=lambda n: abs(n - side),
                )
                raise ValueError(
                    f"data.size={size}: windows of half of encoder.window={self.window} tokens, or more, do not divide "
                    f"every stage of {side} pixels; the nearest side that they do is {near}"
                )
        return UMSwinEncoder(self, size, mean, std, masking)

    def fits(self, side: int) -> bool:
        """Whether every stage of an image side, whole or as it is read, can be cut into windows."""
        scales = (1, 2) if self.reads == "visible" else (1,)
        stages = range(len(self.depths))
        return all(window_side(side // (TOKEN * n) >> stage, self.window // n) for n in scales for stage in stages)


def window_side(side: int, window: int) -> int | None:
    """Side of the windows of a map: the largest divisor of its side from `window` down to half of that; or None."""
    return next((n for n in range(min(side, window), 0, -1) if side % n == 0 and (n == side or 2 * n >= window)), None)


@dataclass(frozen=True)
class Windows:
    """How a map of (H, W) tokens is cut, and how far apart the tokens of a window are in the whole image.

    side, shift: (rows, columns) of a window, and of the roll before the cut.
    offsets: (1, 2, R, C) every distance (key - query) that two tokens of the image can have, in tokens of this stage.
    index: (B or 1, windows, T, T) int64, the place in `offsets` of each query's distance to each key.
    outside: (windows, T, T) 0, or `OUTSIDE` for pairs that are neighbours only because of the roll.
    """

    side: tuple[int, int]
    shift: tuple[int, int]
    offsets: Tensor
    index: Tensor
    outside: Tensor

    @staticmethod
    def of(places: Tensor, stage: int, tokens: tuple[int, int], window: int, shifted: bool) -> Windows:
        """
        Args:
            places: (B or 1, H, W, 2), see `PyramidEncoder.contexts`.
            tokens: (rows, columns) of the whole grid of tokens of the first stage.
            window: side that is aimed at; no roll in a direction in which one window holds all.
        """
        grid = places.shape[1:3]
        side = (window_side(grid[0], window), window_side(grid[1], window))
        shift = tuple(s // 2 if shifted and s < n else 0 for s, n in zip(side, grid, strict=True))
        # Distances are multiples of a token of this stage, or of the patch that compaction moves, if that is smaller.
        step = min(1 << stage, PATCH // TOKEN)
        reach = [(n - 1) // step for n in tokens]
        away = [torch.arange(-n, n + 1, device=places.device) * (step / (1 << stage)) for n in reach]
        offsets = torch.stack(torch.meshgrid(*away, indexing="ij"))[None]
        code = places[..., 0] // step * (2 * reach[1] + 1) + places[..., 1] // step
        code = cut(code[..., None], side, shift)[..., 0]
        index = code[..., None, :] - code[..., :, None] + reach[0] * (2 * reach[1] + 1) + reach[1]
        rows, columns = (
            (torch.arange(n, device=places.device) >= n - s).long() + (torch.arange(n, device=places.device) >= n - h)
            for n, s, h in zip(grid, side, shift, strict=True)
        )
        area = cut((3 * rows[:, None] + columns)[None, ..., None], side, (0, 0))[0, ..., 0]
        outside = torch.where(area[:, None, :] == area[:, :, None], 0.0, OUTSIDE)
        return Windows(side, shift, offsets, index, outside)


def cut(x: Tensor, side: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """(B, H, W, C) to (B, windows, T, C), after a roll by -shift."""
    x = x.roll((-shift[0], -shift[1]), (1, 2)) if any(shift) else x
    x = x.unflatten(2, (-1, side[1])).unflatten(1, (-1, side[0])).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)


def join(x: Tensor, grid: tuple[int, int], side: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """Inverse of `cut`."""
    cells = (grid[0] // side[0], grid[1] // side[1])
    x = x.unflatten(2, side).unflatten(1, cells).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x.roll(shift, (1, 2)) if any(shift) else x


class WindowAttention(nn.Module):
    """Attention in windows, with a bias that an MLP makes of the distance of two tokens in the whole image.

    bias = posmlp(sign(d) log(1 + |d|)), d = place of the key - place of the query (models_mae_swin.py
    `WindowAttention`). The official code runs the MLP on every pair of every window; here it runs on every distance
    there can be, and pairs look theirs up.
    """

    def __init__(self, dim: int, num_heads: int, posmlp_dim: int):
        super().__init__()
        self.num_heads = num_heads
        self.posmlp = nn.Sequential(nn.Conv2d(2, posmlp_dim, 1), nn.ReLU(), nn.Conv2d(posmlp_dim, num_heads, 1))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """x: (B, H, W, C)."""
        grid, heads = x.shape[1:3], self.num_heads
        x = cut(x, windows.side, windows.shift)
        qkv = self.qkv(x).unflatten(3, (3, heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        bias = self.bias(windows, q.dtype).expand(len(q), -1, -1, -1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = self.proj(x.unflatten(1, (-1, heads)).transpose(2, 3).flatten(3))
        return join(x, grid, windows.side, windows.shift)

    def bias(self, windows: Windows, dtype: torch.dtype) -> Tensor:
        """(B or 1, windows * heads, T, T). The table, and the sum of its gradient over all pairs, are fp32 or finer."""
        weight = self.posmlp[0].weight
        with torch.autocast(weight.device.type, enabled=False):
            offsets = windows.offsets.to(weight.dtype)
            table = self.posmlp(offsets.sign() * offsets.abs().log1p())[0].flatten(1)
        table = table.to(torch.promote_types(table.dtype, torch.float32))
        # gather, whose backward pass is a scatter: that of indexing sorts all pairs first
        bias = table.gather(1, windows.index.flatten().expand(self.num_heads, -1)).to(dtype)
        bias = bias.view(-1, *windows.index.shape).permute(1, 2, 0, 3, 4)
        return (bias + windows.outside.to(dtype)[:, None]).flatten(1, 2)


class UMSwinEncoder(PyramidEncoder):
    """UM-MAE's Swin; see `PyramidEncoder`."""

    def __init__(self, spec: UMSwin, *args):
        super().__init__(spec, *args)
        self.window = spec.window

    def contexts(self, stage: int, places: Tensor, compact: bool) -> tuple[Windows, Windows]:
        scale = 2 if compact else 1
        tokens = (places.shape[1] * scale << stage, places.shape[2] * scale << stage)
        even, odd = (Windows.of(places, stage, tokens, self.window // scale, shifted) for shifted in (False, True))
        return even, odd if any(odd.shift) else even
