"""PixMIM as published (arXiv:2303.02416; open-mmlab/mmselfsup `pixmim.py`).

The method is MAE with a low-pass-filtered copy of the image as target. The filter takes a full complex FFT pair, a
shifted spectrum and a mask buffer. Parameter names are the official ones.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .layers import Attention, LayerNorm, vit_sizes
from .mae import MaskedAutoencoder, inputs

__all__ = ["LowFrequencyTarget", "PixMIM", "from_config", "inputs", "low_pass_radius", "sizes"]


class LowFrequencyTarget(nn.Module):
    """Low-pass filter (mmselfsup `low_freq_generator.py`): |IDFT2(M . DFT2(x))| for images x in 0..1.

    The spectrum is shifted, so its origin is at index n // 2, but the disc M is centred on (n - 1) / 2. An inverse
    shift is left out, since it would change signs only.
    """

    def __init__(self, img_size: int | tuple[int, int] = 224, radius: float = 40):
        super().__init__()
        h, w = (img_size, img_size) if isinstance(img_size, int) else img_size
        rows, columns = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (h, w))
        disc = rows[:, None].square() + columns.square() <= radius**2
        self.register_buffer("low_pass_filter", disc.float().expand(3, h, w).contiguous())
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Returns filtered images, (B, 3, H, W), mean/std-normalised like the input."""
        pixels = images * self.std + self.mean
        spectrum = torch.fft.fftshift(torch.fft.fft2(pixels), dim=(-2, -1)) * self.low_pass_filter
        return (torch.fft.ifft2(spectrum).abs() - self.mean) / self.std


class FeedForward(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU()), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Layer(nn.Module):
    """MAE's block under the names of mmselfsup."""

    def __init__(self, dim: int, num_heads: int, attention: Literal["explicit", "sdpa"]):
        super().__init__()
        self.ln1 = LayerNorm(dim)
        self.attn = Attention(dim, num_heads, attention)
        self.ln2 = LayerNorm(dim)
        self.ffn = FeedForward(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.ffn(self.ln2(x))


class PatchEmbed(nn.Module):
    def __init__(self, patch_size: int, dim: int):
        super().__init__()
        self.projection = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(images).flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    """Encoder: `backbone(images, noise) -> (latent (B, 1 + K, D), mask (B, L), restore (B, L))`."""

    random_masking = MaskedAutoencoder.random_masking

    def __init__(
        self, tokens: int, patch_size: int, dim: int, depth: int, num_heads: int, mask_ratio: float, attention
    ):
        super().__init__()
        self.mask_ratio = mask_ratio
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, dim), requires_grad=False)
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.layers = nn.ModuleList(Layer(dim, num_heads, attention) for _ in range(depth))
        self.ln1 = LayerNorm(dim)

    def forward(self, images: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        x, mask, restore = self.random_masking(x, noise)
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([cls_token, x], dim=1)
        for layer in self.layers:
            x = layer(x)
        return self.ln1(x), mask, restore


class Neck(nn.Module):
    """Decoder: `neck(latent, restore) -> (B, L, P)` predictions of every patch."""

    def __init__(self, tokens: int, embed_dim: int, dim: int, depth: int, num_heads: int, values: int, attention):
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, tokens, dim), requires_grad=False)
        self.decoder_embed = nn.Linear(embed_dim, dim)
        self.decoder_blocks = nn.ModuleList(Layer(dim, num_heads, attention) for _ in range(depth))
        self.ln1 = LayerNorm(dim)
        self.decoder_pred = nn.Linear(dim, values)

    def forward(self, latent: Tensor, restore: Tensor) -> Tensor:
        x = self.decoder_embed(latent)
        b, visible, dim = x[:, 1:].shape
        mask_tokens = self.mask_token.repeat(b, restore.shape[1] - visible, 1)
        patches = torch.cat([x[:, 1:], mask_tokens], dim=1)
        patches = patches.gather(1, restore[..., None].expand(-1, -1, dim))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.ln1(x))[:, 1:]


class PixMIM(nn.Module):
    """PixMIM: `model(images, noise) -> (loss, pred, mask)`; the defaults are ViT-B/16 at 224 pixels.

    Weights come from a state dict with the official keys, which also holds the fixed position embeddings.
    """

    forward_loss = MaskedAutoencoder.forward_loss

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
        radius: float = 40,
        norm_pix_loss: bool = True,
        mask_ratio: float = 0.75,
        attention: Literal["explicit", "sdpa"] = "explicit",
    ):
        super().__init__()
        self.patch_size, self.norm_pix_loss = patch_size, norm_pix_loss
        tokens = (img_size // patch_size) ** 2 + 1
        self.backbone = Backbone(tokens, patch_size, embed_dim, depth, num_heads, mask_ratio, attention)
        self.neck = Neck(
            tokens, embed_dim, decoder_embed_dim, decoder_depth, decoder_num_heads, patch_size**2 * 3, attention
        )
        self.target_generator = LowFrequencyTarget(img_size, radius)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the loss of a batch.

        Args:
            images: (B, 3, H, W) float, mean/std-normalised. The encoder reads them unfiltered.
            noise: (B, L); patches with the smallest values stay visible. None = drawn here, as published.

        Returns:
            The loss (), predictions (B, L, p*p*3) of every patch in raster order, and the mask (B, L) float, 1 =
            hidden.
        """
        target = self.target_generator(images)
        latent, mask, restore = self.backbone(images, noise)
        pred = self.neck(latent, restore)
        return self.forward_loss(target, pred, mask), pred, mask


def sizes(config) -> dict:
    """Returns the arguments shared by MAE and its relatives, from a config with a transformer decoder.

    Raises:
        ValueError: the config has parts that the published method lacks.
    """
    h, w = config.data.size
    kinds = type(config.decoder).__name__, type(config.loss).__name__
    if h != w or kinds != ("TransformerDecoder", "MaskedL2"):
        raise ValueError(
            f"the published way takes square images, a TransformerDecoder and MaskedL2; got {h}x{w}, {kinds}"
        )
    decoder = config.decoder
    return dict(
        img_size=h,
        decoder_embed_dim=decoder.dim,
        decoder_depth=decoder.depth,
        decoder_num_heads=decoder.num_heads,
        norm_pix_loss=config.target.standardizes,
        mask_ratio=config.masking.ratio,
    )


def low_pass_radius(target) -> float | None:
    """Returns the radius of a LowPass target, or None if the target is the image itself.

    Raises:
        ValueError: the target or its centre was not published.
    """
    kind = type(target).__name__
    if kind in ("Pixels", "NormalizedPatches"):
        return None
    if kind != "LowPass" or target.center != "official":
        raise ValueError(f'the published way takes pixels, or LowPass with center "official"; got {target}')
    return target.radius


def from_config(config, attention: Literal["explicit", "sdpa"]) -> PixMIM:
    """Returns the published model of a fastmim config.

    Args:
        config: the config.
        attention: "explicit", as published, or "sdpa".

    Raises:
        ValueError: the config is not of PixMIM on MAE.
    """
    kinds = [type(part).__name__ for part in (config.masking, config.encoder, config.target)]
    if kinds != ["RandomMasking", "ViT", "LowPass"]:
        raise ValueError(f"PixMIM on MAE is RandomMasking, ViT, LowPass; the config has {', '.join(kinds)}")
    radius = low_pass_radius(config.target)
    return PixMIM(**sizes(config), **vit_sizes(config.encoder), radius=radius, attention=attention)
