"""ConvMAE as published (arXiv:2205.03892; Alpha-VL/ConvMAE `models_convmae.py`).

Both convolutional stages compute every position, also hidden ones; then three quarters of the positions are dropped.
The rest is MAE as published, without a class token. Parameter names are the official ones.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Block, LayerNorm
from .mae import MaskedAutoencoder, inputs
from .pixmim import LowFrequencyTarget, low_pass_radius, sizes

__all__ = ["ConvMaskedAutoencoder", "from_config", "inputs"]


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, dim: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        self.norm = ChannelNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.proj(x)))


class ConvMlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, 4 * dim, 1)
        self.fc2 = nn.Conv2d(4 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class ConvBlock(nn.Module):
    """Transformer block whose attention is a 5x5 depthwise convolution that reads visible positions only."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm1 = ChannelNorm(dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        self.conv2 = nn.Conv2d(dim, dim, 1)
        self.attn = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.norm2 = ChannelNorm(dim)
        self.mlp = ConvMlp(dim)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Returns a map like x, (B, C, H, W); visible: (B, 1, H, W), 1 or 0."""
        x = x + self.conv2(self.attn(visible * self.conv1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


class ConvMaskedAutoencoder(nn.Module):
    """ConvMAE: `model(images, noise) -> (loss, pred, mask)`; the defaults are ConvMAE-B at 224 pixels.

    Weights come from a state dict with the official keys, which also holds the fixed position embeddings.

    Args:
        radius: radius of PixMIM's low-pass target; None = the target is the image, as published.
    """

    forward_loss = MaskedAutoencoder.forward_loss

    def __init__(
        self,
        img_size: int = 224,
        patch_sizes: tuple[int, int, int] = (4, 2, 2),
        embed_dims: tuple[int, int, int] = (256, 384, 768),
        depths: tuple[int, int, int] = (2, 2, 11),
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        radius: float | None = None,
        norm_pix_loss: bool = True,
        mask_ratio: float = 0.75,
        attention: Literal["explicit", "sdpa"] = "explicit",
    ):
        super().__init__()
        p1, p2, p3 = patch_sizes
        c1, c2, c3 = embed_dims
        self.patch_sizes, self.patch_size = patch_sizes, p1 * p2 * p3
        self.norm_pix_loss, self.mask_ratio = norm_pix_loss, mask_ratio
        tokens = (img_size // self.patch_size) ** 2
        self.patch_embed1 = PatchEmbed(3, c1, p1)
        self.patch_embed2 = PatchEmbed(c1, c2, p2)
        self.patch_embed3 = PatchEmbed(c2, c3, p3)
        self.patch_embed4 = nn.Linear(c3, c3)
        self.stage1_output_decode = nn.Conv2d(c1, c3, p2 * p3, stride=p2 * p3)
        self.stage2_output_decode = nn.Conv2d(c2, c3, p3, stride=p3)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, c3), requires_grad=False)
        self.blocks1 = nn.ModuleList(ConvBlock(c1) for _ in range(depths[0]))
        self.blocks2 = nn.ModuleList(ConvBlock(c2) for _ in range(depths[1]))
        self.blocks3 = nn.ModuleList(Block(c3, num_heads, attention) for _ in range(depths[2]))
        self.norm = LayerNorm(c3)
        self.decoder_embed = nn.Linear(c3, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, tokens, decoder_embed_dim), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_embed_dim, decoder_num_heads, attention) for _ in range(decoder_depth)
        )
        self.decoder_norm = LayerNorm(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, self.patch_size**2 * 3)
        self.filter = nn.Identity() if radius is None else LowFrequencyTarget(img_size, radius)

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
        return self.forward_loss(self.filter(images), pred, mask), pred, mask

    def random_masking(self, images: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns visible patches (B, K) in the order of their noise, the mask, and the raster order."""
        b, num_patches = len(images), self.pos_embed.shape[1]
        keep = int(num_patches * (1 - self.mask_ratio))
        if noise is None:
            noise = torch.rand(b, num_patches, device=images.device)
        shuffle = noise.argsort(dim=1)
        restore = shuffle.argsort(dim=1)
        mask = torch.ones(b, num_patches, device=images.device)
        mask[:, :keep] = 0
        return shuffle[:, :keep], mask.gather(1, restore), restore

    def forward_encoder(self, images: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        ids_keep, mask, restore = self.random_masking(images, noise)
        _, p2, p3 = self.patch_sizes
        side = images.shape[-1] // self.patch_size
        visible2 = (1 - mask).view(-1, 1, side, side).repeat_interleave(p3, 2).repeat_interleave(p3, 3)
        visible1 = visible2.repeat_interleave(p2, 2).repeat_interleave(p2, 3)
        x = self.patch_embed1(images)
        for block in self.blocks1:
            x = block(x, visible1)
        stage1 = self.stage1_output_decode(x)
        x = self.patch_embed2(x)
        for block in self.blocks2:
            x = block(x, visible2)
        stage2 = self.stage2_output_decode(x)
        x = self.patch_embed3(x).flatten(2).transpose(1, 2)
        x = self.patch_embed4(x) + self.pos_embed
        ids = ids_keep[..., None].expand(-1, -1, x.shape[-1])
        x = x.gather(1, ids)
        stage1, stage2 = (stage.flatten(2).transpose(1, 2).gather(1, ids) for stage in (stage1, stage2))
        for block in self.blocks3:
            x = block(x)
        return self.norm(x + stage1 + stage2), mask, restore

    def forward_decoder(self, latent: Tensor, restore: Tensor) -> Tensor:
        x = self.decoder_embed(latent)
        b, visible, dim = x.shape
        mask_tokens = self.mask_token.repeat(b, restore.shape[1] - visible, 1)
        x = torch.cat([x, mask_tokens], dim=1).gather(1, restore[..., None].expand(-1, -1, dim))
        x = x + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))


def from_config(config, attention: Literal["explicit", "sdpa"]) -> ConvMaskedAutoencoder:
    """Returns the published model of a fastmim config.

    Args:
        config: the config.
        attention: "explicit", as published, or "sdpa".

    Raises:
        ValueError: the config is not of ConvMAE.
    """
    encoder, kinds = config.encoder, [type(part).__name__ for part in (config.masking, config.encoder)]
    if kinds != ["RandomMasking", "ConvMAE"]:
        raise ValueError(f"ConvMAE is RandomMasking, ConvMAE; the config has {', '.join(kinds)}")
    return ConvMaskedAutoencoder(
        **sizes(config),
        patch_sizes=encoder.patch_sizes,
        embed_dims=encoder.embed_dims,
        depths=encoder.depths,
        num_heads=encoder.num_heads,
        radius=low_pass_radius(config.target),
        attention=attention,
    )
