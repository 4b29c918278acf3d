"""MAE the published way (arXiv:2111.06377; facebookresearch/mae `models_mae.py` on timm 0.3.2). May import torch only.

Every patch is embedded and then three quarters are dropped, attention materialises its scores, the decoder predicts
every patch, and the loss is built from a full target. Parameter names are the official ones.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


def official_name(ours: str) -> str:
    """The official name of a parameter of fastmim's MAE."""
    part, name = ours.split(".", 1)
    return name if part == "encoder" or name == "mask_token" else f"decoder_{name}"


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
    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

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


class MaskedAutoencoder(nn.Module):
    """`model(images, noise) -> (loss, pred, mask)`; defaults are ViT-B/16 at 224.

    Its weights come from a state dict with the official keys; position embeddings, which are fixed, come with them.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        norm_pix_loss: bool = True,
        mask_ratio: float = 0.75,
        attention: Literal["explicit", "sdpa"] = "explicit",
    ):
        super().__init__()
        self.patch_size, self.norm_pix_loss, self.mask_ratio = patch_size, norm_pix_loss, mask_ratio
        tokens = (img_size // patch_size) ** 2 + 1
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim), requires_grad=False)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, attention) for _ in range(depth))
        self.norm = LayerNorm(embed_dim)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, tokens, decoder_embed_dim), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_embed_dim, decoder_num_heads, attention) for _ in range(decoder_depth)
        )
        self.decoder_norm = LayerNorm(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * 3)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            images: (B, 3, H, W) float, mean/std-normalised.
            noise: (B, L), whose smallest values stay visible; None = drawn here, as published.
        Returns: loss (), pred (B, L, p*p*3) of every patch in raster order, mask (B, L) float with 1 = hidden.
        """
        latent, mask, restore = self.forward_encoder(images, noise)
        pred = self.forward_decoder(latent, restore)
        return self.forward_loss(images, pred, mask), pred, mask

    def random_masking(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Visible rows of (B, L, D) in the order of their noise; the mask; and the order that restores the raster."""
        b, num_patches, dim = x.shape
        keep = int(num_patches * (1 - self.mask_ratio))
        if noise is None:
            noise = torch.rand(b, num_patches, device=x.device)
        shuffle = noise.argsort(dim=1)
        restore = shuffle.argsort(dim=1)
        visible = x.gather(1, shuffle[:, :keep, None].expand(-1, -1, dim))
        mask = torch.ones(b, num_patches, device=x.device)
        mask[:, :keep] = 0
        return visible, mask.gather(1, restore), restore

    def forward_encoder(self, images: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        x, mask, restore = self.random_masking(x, noise)
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([cls_token, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, restore

    def forward_decoder(self, latent: Tensor, restore: Tensor) -> Tensor:
        x = self.decoder_embed(latent)
        b, visible, dim = x[:, 1:].shape
        mask_tokens = self.mask_token.repeat(b, restore.shape[1] - visible, 1)
        patches = torch.cat([x[:, 1:], mask_tokens], dim=1)
        patches = patches.gather(1, restore[..., None].expand(-1, -1, dim))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def patchify(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, L, p*p*3); inside a patch (row, column, channel)."""
        b, c, h, w = images.shape
        p = self.patch_size
        x = images.reshape(b, c, h // p, p, w // p, p)
        return torch.einsum("nchpwq->nhwpqc", x).reshape(b, -1, p * p * c)

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        target = self.patchify(images)
        if self.norm_pix_loss:
            mean = target.mean(dim=-1, keepdim=True)
            var = target.var(dim=-1, keepdim=True)
            target = (target - mean) / (var + 1e-6) ** 0.5
        loss = ((pred - target) ** 2).mean(dim=-1)
        return (loss * mask).sum() / mask.sum()


def from_config(cfg: Any, attention: Literal["explicit", "sdpa"]) -> MaskedAutoencoder:
    """The published model of a fastmim config.

    Raises:
        ValueError: the config is not MAE's.
    """
    kinds = [type(part).__name__ for part in (cfg.masking, cfg.encoder, cfg.decoder, cfg.loss)]
    if kinds != ["RandomMasking", "ViT", "TransformerDecoder", "MaskedL2"]:
        raise ValueError(f"MAE is RandomMasking, ViT, TransformerDecoder, MaskedL2; the config has {', '.join(kinds)}")
    if type(cfg.target).__name__ not in ("NormalizedPatches", "Pixels") or cfg.data.size[0] != cfg.data.size[1]:
        raise ValueError(f"MAE predicts pixels of square images; got {type(cfg.target).__name__} at {cfg.data.size}")
    return MaskedAutoencoder(
        img_size=cfg.data.size[0],
        **vit_sizes(cfg.encoder),
        decoder_embed_dim=cfg.decoder.dim,
        decoder_depth=cfg.decoder.depth,
        decoder_num_heads=cfg.decoder.num_heads,
        norm_pix_loss=type(cfg.target).__name__ == "NormalizedPatches",
        mask_ratio=cfg.masking.ratio,
        attention=attention,
    )


# Of the timm names that MAE's configs use.
VIT_SIZES = {
    "tiny": dict(embed_dim=192, depth=12, num_heads=3),
    "small": dict(embed_dim=384, depth=12, num_heads=6),
    "base": dict(embed_dim=768, depth=12, num_heads=12),
    "large": dict(embed_dim=1024, depth=24, num_heads=16),
    "huge": dict(embed_dim=1280, depth=32, num_heads=16),
}


def vit_sizes(encoder: Any) -> dict[str, int]:
    """Patch size, width, depth and heads of a fastmim ViT: those of its timm name, unless it gives its own.

    Raises:
        ValueError: the name is not vit_SIZE_patchN_...
    """
    family, _, rest = encoder.name.partition("_")
    size, _, rest = rest.partition("_patch")
    if family != "vit" or size not in VIT_SIZES or not rest:
        raise ValueError(
            f"expected an encoder named vit_SIZE_patchN, SIZE one of {', '.join(VIT_SIZES)}; got {encoder.name}"
        )
    sizes = VIT_SIZES[size] | {"patch_size": int(rest.partition("_")[0])}
    return {name: getattr(encoder, name) or value for name, value in sizes.items()}


def inputs(mask: Any) -> tuple[Tensor]:
    """The noise that makes the published way hide the patches of a fastmim mask: each patch's place in its order."""
    return (mask.ids.argsort(dim=1).float(),)
