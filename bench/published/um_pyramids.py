"""The Swin and the PVT of UM-MAE as published (arXiv:2205.10063; implus/UM-MAE).

The position MLP runs on every pair of tokens of every window. Parameter names are the official ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import LayerNorm, Mlp

Kind = Literal["explicit", "sdpa"]
TOKEN = 4
"""Side, in pixels, of a token of the pyramids."""
PATCH = 16
"""Side, in pixels, of the patches that are hidden and predicted."""


def partition(x: Tensor, window: int) -> Tensor:
    """Turns (B, H, W, C) into (B * windows, window * window, C)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def unpartition(windows: Tensor, window: int, grid: tuple[int, int]) -> Tensor:
    """Inverts `partition`."""
    h, w = grid
    x = windows.reshape(-1, h // window, w // window, window, window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, h, w, windows.shape[-1])


def compact(x: Tensor, side: int) -> Tensor:
    """Sums each 2x2 block of squares of `side` tokens: (B, C, H, W) to (B, C, H/2, W/2)."""
    b, c, h, w = x.shape
    tile = 2 * side
    x = x.reshape(b, c, h // tile, tile, w // tile, tile).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, tile, tile)
    x = F.conv2d(x, x.new_ones(c, 1, 2, 2), dilation=side, groups=c)
    x = x.reshape(b, h // tile, w // tile, c, side, side).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, c, h // 2, w // 2)


class WindowAttention(nn.Module):
    """Attention in windows, whose bias is an MLP of the distance in the whole image."""

    def __init__(self, dim: int, num_heads: int, window: int, posmlp_dim: int, kind: Kind):
        super().__init__()
        self.num_heads, self.window, self.kind = num_heads, window, kind
        self.scale = (dim // num_heads) ** -0.5
        self.posmlp = nn.Sequential(nn.Conv2d(2, posmlp_dim, 1), nn.ReLU(), nn.Conv2d(posmlp_dim, num_heads, 1))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, pos: Tensor, regions: Tensor | None) -> Tensor:
        """Returns a map like x, (B, H, W, C); pos: (B or 1, H, W, 2); regions: (windows, T, T), 0 or -100."""
        grid = x.shape[1:3]
        x = partition(x, self.window)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        where = partition(pos, self.window).transpose(1, 2)
        distance = where[:, :, None] - where[..., None]
        bias = self.posmlp(distance.sign() * (1 + distance.abs()).log())
        bias = bias.repeat(b // len(bias), 1, 1, 1)
        if regions is not None:
            bias = bias + regions.repeat(b // len(regions), 1, 1)[:, None]
        if self.kind == "sdpa":
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        else:
            x = ((q * self.scale) @ k.transpose(-2, -1) + bias).softmax(dim=-1) @ v
        return unpartition(self.proj(x.transpose(1, 2).reshape(b, n, c)), self.window, grid)


class Merge(nn.Module):
    """Merges 2x2 tokens into one: layer norm (Swin only) and a strided convolution."""

    def __init__(self, dim: int, out_dim: int, norm: bool):
        super().__init__()
        self.norm = LayerNorm(dim) if norm else nn.Identity()
        self.proj = nn.Conv2d(dim, out_dim, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SwinBlock(nn.Module):
    def __init__(
        self, dim: int, num_heads: int, grid: int, window: int, shifted: bool, posmlp_dim: int,
        downsample: Merge | None, kind: Kind,
    ):  # fmt: skip
        super().__init__()
        self.shift = window // 2 if shifted and grid > window else 0
        window = min(window, grid)
        if downsample is not None:
            self.downsample = downsample
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window, posmlp_dim, kind)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        regions = None
        if self.shift:
            side = torch.zeros(grid)
            side[-window : -self.shift], side[-self.shift :] = 1, 2
            area = partition((3 * side[:, None] + side)[None, ..., None], window)
            regions = torch.where(area == area.transpose(1, 2), 0.0, -100.0)
        self.register_buffer("regions", regions, persistent=False)

    def forward(self, x: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        if hasattr(self, "downsample"):
            x, pos = self.downsample(x), pos[:, ::2, ::2] / 2
        y, where = self.norm1(x), pos
        if self.shift:
            y, where = (t.roll((-self.shift, -self.shift), (1, 2)) for t in (y, where))
        y = self.attn(y, where, self.regions)
        if self.shift:
            y = y.roll((self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x)), pos


class ReducedAttention(nn.Module):
    """Attention of PVT, whose keys and values come from a pooled map."""

    def __init__(self, dim: int, num_heads: int, reduction: int, kind: Kind):
        super().__init__()
        self.num_heads, self.reduction, self.kind = num_heads, reduction, kind
        self.scale = (dim // num_heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.sr = nn.Conv2d(dim, dim, 1)
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        q = self.q(x).reshape(b, h * w, self.num_heads, c // self.num_heads).transpose(1, 2)
        y = self.sr(F.avg_pool2d(x.permute(0, 3, 1, 2), self.reduction)).flatten(2).transpose(1, 2)
        y = self.kv(self.norm(y)).reshape(b, -1, 2, self.num_heads, c // self.num_heads)
        k, v = y.permute(2, 0, 3, 1, 4)
        if self.kind == "sdpa":
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, h, w, c))


class PVTBlock(nn.Module):
    def __init__(
        self, dim: int, num_heads: int, reduction: int, mlp_ratio: int, downsample: Merge | None, kind: Kind
    ):  # fmt: skip
        super().__init__()
        if downsample is not None:
            self.downsample = downsample
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ReducedAttention(dim, num_heads, reduction, kind)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(self, x: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x)), pos


@dataclass(frozen=True)
class Swin:
    """Sizes of the repository's Swin; by default Swin-T with windows of 8 tokens (16 on a whole grid)."""

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 8
    posmlp_dim: int = 32
    patch_norm = True

    @property
    def dims(self) -> list[int]:
        return [self.embed_dim << stage for stage in range(len(self.depths))]

    def block(self, stage: int, i: int, grid: int, downsample: Merge | None, kind: Kind) -> nn.Module:
        args = (self.dims[stage], self.num_heads[stage], grid, self.window, i % 2 == 1, self.posmlp_dim)
        return SwinBlock(*args, downsample, kind)


@dataclass(frozen=True)
class PVT:
    """Sizes of the repository's PVT; the defaults are PVT-S, with reductions (8, 4, 2, 1) on a whole grid."""

    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    reductions: tuple[int, ...] = (4, 2, 1, 1)
    patch_norm = False

    def block(self, stage: int, i: int, grid: int, downsample: Merge | None, kind: Kind) -> nn.Module:
        args = (self.dims[stage], self.num_heads[stage], self.reductions[stage], self.mlp_ratios[stage])
        return PVTBlock(*args, downsample, kind)


class TokenEmbed(nn.Module):
    def __init__(self, dim: int, norm: bool):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, TOKEN, stride=TOKEN)
        self.norm = LayerNorm(dim) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Pyramid(nn.Module):
    """Embedding, blocks and final norm of both backbones, on the whole token grid or on half the side."""

    def __init__(self, backbone: Swin | PVT, img_size: int, compacted: bool, kind: Kind):
        super().__init__()
        dims, grid = backbone.dims, img_size // TOKEN
        self.patch_embed = TokenEmbed(dims[0], backbone.patch_norm)
        if not backbone.patch_norm:
            self.pos_embed = nn.Parameter(torch.zeros(1, grid**2, dims[0]), requires_grad=False)
        self.register_buffer("pos", torch.cartesian_prod(*[torch.arange(grid)] * 2).float(), persistent=False)
        self.pos = self.pos.reshape(1, grid, grid, 2)
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(backbone.depths):
            side = grid // (2 if compacted else 1) >> stage
            for i in range(depth):
                first = stage > 0 and i == 0
                merge = Merge(dims[stage - 1], dims[stage], backbone.patch_norm) if first else None
                self.blocks.append(backbone.block(stage, i, side, merge, kind))
        self.norm = LayerNorm(dims[-1])

    def transform(self, x: Tensor, pos: Tensor) -> Tensor:
        for block in self.blocks:
            x, pos = block(x, pos)
        return self.norm(x.flatten(1, 2))

    def enlarge(self, mask: Tensor) -> Tensor:
        """Turns a mask of patches (B, L) into a mask of tokens (B, H, W, 1)."""
        side = int(mask.shape[1] ** 0.5)
        mask = mask.reshape(-1, side, side, 1)
        return mask.repeat_interleave(PATCH // TOKEN, 1).repeat_interleave(PATCH // TOKEN, 2)
