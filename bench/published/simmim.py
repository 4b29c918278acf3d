"""SimMIM as published (arXiv:2111.09886; microsoft/SimMIM `models/`).

Every token is encoded; a learned token replaces masked tokens. A 1x1 convolution and a pixel shuffle predict every
pixel, and a mask of all pixels weighs the L1 loss. Parameter names are the official ones.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Mlp

Kind = Literal["explicit", "sdpa"]


class DropPath(nn.Module):
    """Stochastic depth: drops the whole branch of a sample, and scales up the branches that are kept."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(keep).div_(keep)


def enlarge(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeats each entry of (N, h, w) to (N, *size)."""
    for axis in (1, 2):
        mask = mask.repeat_interleave(size[axis - 1] // mask.shape[axis], dim=axis)
    return mask


def put_token(x: Tensor, token: Tensor, mask: Tensor) -> Tensor:
    """Returns x, (N, L, C), with `token` at the masked rows."""
    weight = mask.flatten(1).unsqueeze(-1).type_as(token)
    return x * (1 - weight) + token.expand(*x.shape[:2], -1) * weight


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kind: Kind) -> Tensor:
    """Returns attention with an additive, broadcast `bias`; all tensors are 4-D, heads second."""
    if kind == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias).softmax(dim=-1) @ v


def offsets(height: int, width: int) -> Tensor:
    """Returns the row of the bias table for each (query, key), as (h*w, h*w).

    The row is (dy + h - 1)(2w - 1) + dx + w - 1, where (dy, dx) is query minus key.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    dy, dx = (c.flatten()[:, None] - c.flatten()[None] for c in (y, x))
    return (dy + height - 1) * (2 * width - 1) + dx + width - 1


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for each relative position."""

    def __init__(self, dim: int, num_heads: int, window: int, kind: Kind):
        super().__init__()
        self.num_heads, self.kind = num_heads, kind
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", offsets(window, window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, attn_mask: Tensor | None) -> Tensor:
        """Returns a tensor like x, (B * windows, T, C); attn_mask: (windows, T, T)."""
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(t, t, -1).permute(2, 0, 1).unsqueeze(0)
        if attn_mask is not None:
            bias = (bias + attn_mask.unsqueeze(1)).repeat(b // len(attn_mask), 1, 1, 1)
        x = attend(q, k, v, bias.to(q.dtype), self.kind)
        return self.proj(x.transpose(1, 2).reshape(b, t, c))


def to_windows(x: Tensor, window: int) -> Tensor:
    """Turns (B, H, W, C) into (B * windows, window**2, C)."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c).transpose(2, 3)
    return x.reshape(-1, window * window, c)


def from_windows(x: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """Turns (B * windows, window**2, C) into (B, *size, C)."""
    h, w = size
    x = x.view(-1, h // window, w // window, window, window, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, h, w, x.shape[-1])


def shift_mask(size: tuple[int, int], window: int, shift: int) -> Tensor:
    """Returns (windows, T, T): -100 between tokens that only the cyclic shift brought together."""
    region = torch.zeros(1, *size, 1)
    cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            region[:, rows, columns] = 3 * i + j
    region = to_windows(region, window).squeeze(-1)
    return (region[:, None] != region[:, :, None]).float() * -100.0


class SwinBlock(nn.Module):
    def __init__(
        self, dim: int, size: tuple[int, int], num_heads: int, window: int, shift: int, drop_path: float, kind: Kind
    ):
        super().__init__()
        if min(size) <= window:
            window, shift = min(size), 0
        if size[0] != size[1] or size[0] % window:
            raise ValueError(f"officially a square number of whole windows makes a map, not {size} and {window}")
        self.size, self.window, self.shift = size, window, shift
        self.register_buffer("attn_mask", shift_mask(size, window, shift) if shift else None)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window, kind)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        b, tokens, c = x.shape
        y = self.norm1(x).view(b, *self.size, c)
        if self.shift:
            y = y.roll((-self.shift, -self.shift), dims=(1, 2))
        y = self.attn(to_windows(y, self.window), self.attn_mask)
        y = from_windows(y, self.window, self.size)
        if self.shift:
            y = y.roll((self.shift, self.shift), dims=(1, 2))
        x = x + self.drop_path(y.view(b, tokens, c))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Merges four neighbouring tokens into one of twice their width."""

    def __init__(self, dim: int, size: tuple[int, int]):
        super().__init__()
        self.size = size
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        b, _, c = x.shape
        x = x.view(b, *self.size, c)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
        return self.reduction(self.norm(x.view(b, -1, 4 * c)))


class Stage(nn.Module):
    def __init__(self, blocks: list[SwinBlock], downsample: PatchMerging | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Embeds patches as tokens; Swin normalises the tokens (`norm`), ViT does not."""

    def __init__(self, patch_size: int, dim: int, norm: bool):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim) if norm else None

    def forward(self, images: Tensor) -> Tensor:
        x = self.proj(images).flatten(2).transpose(1, 2)
        return x if self.norm is None else self.norm(x)


class SwinTransformer(nn.Module):
    """Swin: `encoder(images, mask) -> (N, C, H / 32, W / 32)`; defaults: Swin-B at 192, windows of 6."""

    stride = 32

    def __init__(
        self,
        img_size: int | tuple[int, int] = 192,
        patch_size: int = 4,
        embed_dim: int = 128,
        depths: tuple[int, ...] = (2, 2, 18, 2),
        num_heads: tuple[int, ...] = (4, 8, 16, 32),
        window: int = 6,
        drop_path: float = 0.0,
        attention: Kind = "explicit",
    ):
        super().__init__()
        sides = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid = tuple(side // patch_size for side in sides)
        self.patch_embed = PatchEmbed(patch_size, embed_dim, norm=True)
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        self.layers = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            size, dim = tuple(side >> i for side in self.grid), embed_dim << i
            blocks = [
                SwinBlock(dim, size, heads, window, b % 2 * (window // 2), next(rates), attention) for b in range(depth)
            ]
            self.layers.append(Stage(blocks, PatchMerging(dim, size) if i + 1 < len(depths) else None))
        self.latent_grid, self.num_features = size, dim
        self.norm = nn.LayerNorm(dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        x = put_token(self.patch_embed(images), self.mask_token, enlarge(mask, self.grid))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).transpose(1, 2).reshape(len(x), -1, *self.latent_grid)


def offsets_with_class_token(height: int, width: int) -> Tensor:
    """Returns `offsets` with a class token first, which uses the last three rows of the table."""
    first = (2 * height - 1) * (2 * width - 1)
    index = F.pad(offsets(height, width), (1, 0, 1, 0))
    index[0], index[:, 0], index[0, 0] = first, first + 1, first + 2
    return index


class RelativePositionBias(nn.Module):
    """Learned bias (heads, T, T) for each relative position of two patches and for the class token."""

    def __init__(self, grid: tuple[int, int], num_heads: int):
        super().__init__()
        rows = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        self.register_buffer("relative_position_index", offsets_with_class_token(*grid))

    def forward(self) -> Tensor:
        index = self.relative_position_index
        return self.relative_position_bias_table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1).contiguous()


class Attention(nn.Module):
    """Self-attention whose keys have no bias, with an additive bias on its scores."""

    def __init__(self, dim: int, num_heads: int, kind: Kind):
        super().__init__()
        self.num_heads, self.kind = num_heads, kind
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        b, t, c = x.shape
        qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, qkv_bias)
        q, k, v = qkv.reshape(b, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        x = attend(q, k, v, bias.to(q.dtype).unsqueeze(0), self.kind)
        return self.proj(x.transpose(1, 2).reshape(b, t, c))


LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Block(nn.Module):
    """Transformer block with LayerScale."""

    def __init__(self, dim: int, num_heads: int, drop_path: float, kind: Kind):
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, num_heads, kind)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.gamma_1 = nn.Parameter(torch.full((dim,), 0.1))
        self.gamma_2 = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x), bias))
        return x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """BEiT's ViT with one bias table: `encoder(images, mask) -> (N, C, H / 16, W / 16)`.

    The ViT has no absolute positions.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        drop_path: float = 0.1,
        attention: Kind = "explicit",
    ):
        super().__init__()
        sides = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid = self.latent_grid = tuple(side // patch_size for side in sides)
        self.stride, self.num_features = patch_size, embed_dim
        self.patch_embed = PatchEmbed(patch_size, embed_dim, norm=False)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.rel_pos_bias = RelativePositionBias(self.grid, num_heads)
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, rate, attention) for rate in rates)
        self.norm = LayerNorm(embed_dim)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        x = put_token(self.patch_embed(images), self.mask_token, enlarge(mask, self.grid))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        bias = self.rel_pos_bias()
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x)[:, 1:].transpose(1, 2).reshape(len(x), -1, *self.grid)


class SimMIM(nn.Module):
    """SimMIM: `model(images, mask) -> (loss, pred, mask)`."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.Sequential(
            nn.Conv2d(encoder.num_features, encoder.stride**2 * 3, 1), nn.PixelShuffle(encoder.stride)
        )

    def forward(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the loss of a batch.

        Args:
            images: (N, 3, H, W) float, mean/std-normalised.
            mask: (N, h, w) int64, 1 = hidden; in the official loader h, w is the grid of tokens.

        Returns:
            The loss (), predictions (N, 3, H, W), and the mask.
        """
        pred = self.decoder(self.encoder(images, mask))
        return self.loss(images, pred, mask), pred, mask

    @staticmethod
    def loss(images: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Returns sum(|d| * M) / (sum(M) + 1e-5) / 3, where M counts each pixel once (`models/simmim.py`)."""
        weight = enlarge(mask, images.shape[2:]).unsqueeze(1).contiguous()
        error = F.l1_loss(images, pred, reduction="none")
        return (error * weight).sum() / (weight.sum() + 1e-5) / images.shape[1]


# Width, depths and heads of Swin, and width, depth and heads of BEiT's ViT, by the size in timm's name.
SWINS = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
VITS = {"base": (768, 12, 12), "large": (1024, 24, 16)}


def own_or_default(encoder: Any, **defaults: Any) -> dict[str, Any]:
    """Returns the fields of a fastmim encoder that `defaults` names, with the default in place of None."""
    fields = {name: getattr(encoder, name) for name in defaults}
    return {name: default if fields[name] is None else fields[name] for name, default in defaults.items()}


def from_config(cfg: Any, attention: Kind = "explicit") -> SimMIM:
    """Returns the official model of a fastmim config.

    Args:
        cfg: the config.
        attention: "explicit", as published, or "sdpa".

    Raises:
        ValueError: not a config of SimMIM on Swin or on its own ViT.
    """
    encoder, size = cfg.encoder, cfg.data.size
    parts = [type(part).__name__ for part in (cfg.decoder, cfg.target, cfg.loss)]
    named = re.fullmatch(r"(swin|beit)_(tiny|small|base|large)_patch(\d+)(?:_window(\d+))?_\d+", encoder.name)
    token = (getattr(encoder, name, None) for name in ("fill", "token", "token_layer"))
    if not named or parts != ["LinearHead", "Pixels", "MaskedL1"] or tuple(token) != ("none", "replace", 0):
        raise ValueError(
            "not SimMIM: expected Swin or BEiT by timm's name, that replaces tokens at layer 0, with LinearHead, "
            f"Pixels, MaskedL1; got {encoder.name}, {', '.join(parts)}"
        )
    kind, scale, patch, window = named.groups()
    common = {"img_size": size, "drop_path": encoder.drop_path, "attention": attention}
    if kind == "swin":
        dim, depths, heads = SWINS[scale]
        own = own_or_default(
            encoder, patch_size=int(patch), embed_dim=dim, depths=depths, num_heads=heads, window=int(window)
        )
        return SimMIM(SwinTransformer(**common, **own))
    dim, depth, heads = VITS[scale]
    if (
        encoder.absolute_pos
        or not encoder.shared_bias
        or encoder.mlp_ratio not in (None, 4)
        or encoder.layer_scale != 0.1
    ):
        raise ValueError("not SimMIM's ViT, which has one table of relative positions, no absolute ones, mlp_ratio 4")
    own = own_or_default(encoder, patch_size=int(patch), embed_dim=dim, depth=depth, num_heads=heads)
    return SimMIM(VisionTransformer(**common, **own))


def inputs(mask: Any) -> tuple[Tensor]:
    """Returns the inputs after `images` that hide the patches of a fastmim mask."""
    return (mask.mask.view(-1, *mask.grid).long(),)
