"""Parts that published models share: ViT blocks as in timm 0.3.2, patches, normalisation."""

from __future__ import annotations

import re
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Attention(nn.Module):
    """Multi-head self-attention: explicit scores as in timm 0.3.2, or torch's SDPA."""

    def __init__(self, dim: int, num_heads: int, kind: Literal["explicit", "sdpa"]):
        super().__init__()
        self.num_heads, self.kind = num_heads, kind
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        if self.kind == "sdpa":
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    def __init__(self, dim: int, ratio: int = 4):
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, attention: Literal["explicit", "sdpa"]):
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, num_heads, attention)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, patch_size: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Turns (B, C, H, W) into patches (B, L, p*p*C), in the order (row, column, channel) inside a patch."""
    b, c, h, w = images.shape
    p = patch_size
    x = images.reshape(b, c, h // p, p, w // p, p)
    return torch.einsum("nchpwq->nhwpqc", x).reshape(b, -1, p * p * c)


def normalize_patches(target: Tensor) -> Tensor:
    """Normalises each row by its own mean and unbiased variance (MAE's norm_pix)."""
    mean = target.mean(dim=-1, keepdim=True)
    var = target.var(dim=-1, keepdim=True)
    return (target - mean) / (var + 1e-6) ** 0.5


VIT_SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
"""Width, blocks and heads of the plain ViTs."""


def vit_sizes(encoder) -> dict[str, int]:
    """Returns patch_size, embed_dim, depth and num_heads of a fastmim ViT.

    A field that the ViT leaves open is that of its timm model.

    Raises:
        ValueError: the name is not vit_<size>_patch<n>_<image side> with a size of `VIT_SIZES`.
    """
    found = re.fullmatch(r"vit_([a-z]+)_patch(\d+)_\d+", encoder.name)
    if found is None or found[1] not in VIT_SIZES:
        raise ValueError(
            f"encoder.name={encoder.name!r}: published ViTs are named vit_<size>_patch<n>_<image side>, "
            f"the size one of {', '.join(VIT_SIZES)}"
        )
    named = (int(found[2]), *VIT_SIZES[found[1]])
    own = (encoder.patch_size, encoder.embed_dim, encoder.depth, encoder.num_heads)
    values = (name if value is None else value for name, value in zip(named, own, strict=True))
    return dict(zip(("patch_size", "embed_dim", "depth", "num_heads"), values, strict=True))
