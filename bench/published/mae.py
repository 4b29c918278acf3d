"""MAE as published (arXiv:2111.06377; facebookresearch/mae `models_mae.py` on timm 0.3.2).

Every patch is embedded, and then three quarters are dropped. Attention materialises its scores, the decoder predicts
every patch, and the loss is built from a full target. Parameter names are the official ones.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .layers import Block, LayerNorm, PatchEmbed, normalize_patches, patchify, vit_sizes


class MaskedAutoencoder(nn.Module):
    """MAE: `model(images, noise) -> (loss, pred, mask)`; the defaults are ViT-B/16 at 224 pixels.

    Weights come from a state dict with the official keys, which also holds the fixed position embeddings.
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
        """Returns the loss of a batch.

        Args:
            images: (B, 3, H, W) float, mean/std-normalised.
            noise: (B, L); patches with the smallest values stay visible. None = drawn here, as published.

        Returns:
            The loss (), predictions (B, L, p*p*3) of every patch in raster order, and the mask (B, L) float, 1 =
            hidden.
        """
        latent, mask, restore = self.forward_encoder(images, noise)
        pred = self.forward_decoder(latent, restore)
        return self.forward_loss(images, pred, mask), pred, mask

    def random_masking(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns visible rows of (B, L, D) in the order of their noise, the mask, and the raster order."""
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

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        target = patchify(images, self.patch_size)
        if self.norm_pix_loss:
            target = normalize_patches(target)
        loss = ((pred - target) ** 2).mean(dim=-1)
        return (loss * mask).sum() / mask.sum()


def from_config(cfg: Any, attention: Literal["explicit", "sdpa"]) -> MaskedAutoencoder:
    """Returns the published model of a fastmim config.

    Args:
        cfg: the config.
        attention: "explicit", as published, or "sdpa".

    Raises:
        ValueError: the config is not of MAE.
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


def inputs(mask: Any) -> tuple[Tensor]:
    """Returns the noise that hides the patches of a fastmim mask: each patch's rank in the mask's order."""
    return (mask.ids.argsort(dim=1).float(),)
