"""The ViT of A2MIM as published, and of its SimMIM baseline (Westlake-AI/openmixup `mim_vit.py`).

The network is SimMIM's ViT with learned absolute positions and a table of relative positions in every block. The mask
token is added to masked tokens or replaces them, before the positions or before a later block. Parameter names are the
official ones. The baseline is the same model with other options.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .a2mim import A2MIM, Neck, Token, head_of
from .simmim import (
    VITS,
    Attention,
    DropPath,
    Kind,
    LayerNorm,
    RelativePositionBias,
    enlarge,
    inputs,
    own_or_default,
    put_token,
)  # fmt: skip

__all__ = ["ViT", "from_config", "inputs"]


class BiasedAttention(Attention):
    """Attention with its own table of relative positions."""

    def __init__(self, dim: int, num_heads: int, grid: tuple[int, int], kind: Kind):
        super().__init__(dim, num_heads, kind)
        own = RelativePositionBias(grid, num_heads)
        self.relative_position_bias_table = own.relative_position_bias_table
        self.register_buffer("relative_position_index", own.relative_position_index)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, RelativePositionBias.forward(self))


class FFN(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(dim, hidden)), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](F.gelu(self.layers[0](x)))


class Layer(nn.Module):
    def __init__(self, dim: int, num_heads: int, hidden: int, grid: tuple[int, int], drop_path: float, kind: Kind):
        super().__init__()
        self.gamma_1 = nn.Parameter(torch.full((dim,), 0.1))
        self.gamma_2 = nn.Parameter(torch.full((dim,), 0.1))
        self.ln1 = LayerNorm(dim)
        self.attn = BiasedAttention(dim, num_heads, grid, kind)
        self.drop_path = DropPath(drop_path)
        self.ln2 = LayerNorm(dim)
        self.ffn = FFN(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.gamma_1 * self.attn(self.ln1(x)))
        return x + self.drop_path(self.gamma_2 * self.ffn(self.ln2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, patch_size: int, dim: int):
        super().__init__()
        self.projection = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(images).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """ViT: `vit(images, mask) -> (N, C, H / 16, W / 16)`, by default ViT-B; the caller fills images."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        hidden: int = 3072,
        drop_path: float = 0.1,
        mask_layer: int = 0,
        token: Token = "add",
        attention: Kind = "explicit",
    ):
        super().__init__()
        self.mask_layer, self.token = mask_layer, token
        sides = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid = self.latent_grid = tuple(side // patch_size for side in sides)
        self.stride, self.num_features = patch_size, embed_dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1] + 1, embed_dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.mask_gamma = nn.Parameter(torch.full((embed_dim,), 1e-6)) if token == "gated" else None
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.layers = nn.ModuleList(Layer(embed_dim, num_heads, hidden, self.grid, rate, attention) for rate in rates)
        self.ln1 = LayerNorm(embed_dim)

    def mark(self, x: Tensor, mask: Tensor) -> Tensor:
        """Returns x, (N, L, C), with the mask token at masked rows."""
        if self.token == "replace":
            return put_token(x, self.mask_token, mask)
        weight = mask.flatten(1).unsqueeze(-1).type_as(x)
        if self.mask_gamma is not None:
            x = x * (1 - weight) + x * weight * self.mask_gamma
        return x + self.mask_token * weight

    def forward_features(self, images: Tensor, mask: Tensor) -> Tensor:
        mask = enlarge(mask, self.grid)
        x = self.patch_embed(images)
        if self.mask_layer == 0:
            x = self.mark(x, mask)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for i, layer in enumerate(self.layers, 1):
            if self.mask_layer == i:
                x = torch.cat([x[:, :1], self.mark(x[:, 1:], mask)], dim=1)
            x = layer(x)
        return self.ln1(x)[:, 1:].transpose(1, 2).reshape(len(x), -1, *self.grid)

    forward = forward_features


def from_config(cfg: Any, attention: Kind = "explicit") -> A2MIM:
    """Returns the official model of a fastmim config.

    Args:
        cfg: the config.
        attention: "explicit", as published, or "sdpa".

    Raises:
        ValueError: not a config of A2MIM, or of its SimMIM baseline, on its ViT.
    """
    encoder = cfg.encoder
    parts = [type(part).__name__ for part in (encoder, cfg.decoder, cfg.target)]
    named = re.fullmatch(r"beit_(base|large)_patch(\d+)_\d+", encoder.name)
    if not named or parts != ["BEiT", "LinearHead", "Pixels"] or not encoder.absolute_pos or encoder.shared_bias:
        raise ValueError(
            "not A2MIM on its ViT: expected BEiT with absolute_pos and without shared_bias, LinearHead, Pixels; got "
            f"{encoder.name}, {', '.join(parts)}"
        )
    if encoder.layer_scale != 0.1:
        raise ValueError(f"encoder.layer_scale={encoder.layer_scale}: the official ViTs have 0.1")
    dim, depth, heads = VITS[named[1]]
    own = own_or_default(encoder, patch_size=int(named[2]), embed_dim=dim, depth=depth, num_heads=heads)
    vit = ViT(
        img_size=cfg.data.size,
        **own,
        hidden=int(own["embed_dim"] * (encoder.mlp_ratio or 4)),
        drop_path=encoder.drop_path,
        mask_layer=encoder.token_layer,
        token=encoder.token,
        attention=attention,
    )
    return A2MIM(vit, Neck(vit.num_features, vit.stride, encoder.fill), head_of(cfg.loss), encoder.fill)
