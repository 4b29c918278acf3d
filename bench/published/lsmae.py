"""Long-sequence MAE as published (arXiv:2210.07224; facebookresearch/long_seq_mae).

The model is MAE at 448 pixels with a narrower decoder. The loader delivers the masks, drawn in blocks of 2x2 patches.
Parameter names are the official ones, which are MAE's.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .layers import vit_sizes
from .mae import MaskedAutoencoder
from .pixmim import LowFrequencyTarget, low_pass_radius, sizes


def joint_mask(grid: int, side: int, mask_ratio: float) -> tuple[Tensor, Tensor]:
    """Returns ids_keep (K,) and ids_restore (L,) of one sample (`util/long_seq_patch_loader.py`).

    Blocks of side x side patches come in random order, each column by column. Blocks that reach over the edge are cut.
    """
    blocks = -(-grid // side)
    order = torch.randperm(blocks**2)
    inner = torch.arange(side)
    rows = (order // blocks * side)[:, None, None] + inner
    columns = (order % blocks * side)[:, None, None] + inner[:, None]
    inside = (rows < grid) & (columns < grid)
    shuffle = (rows * grid + columns)[inside]
    return shuffle[: int(grid**2 * (1 - mask_ratio))], shuffle.argsort()


class LongSequenceMaskedAutoencoder(MaskedAutoencoder):
    """Long-sequence MAE: `model(images, ids_keep, ids_restore) -> (loss, pred, mask)`.

    The defaults are ViT-B/16 at 448 pixels.

    Args:
        radius: radius of PixMIM's low-pass target; None = the target is the image, as published.
    """

    def __init__(
        self,
        img_size: int = 448,
        decoder_embed_dim: int = 384,
        decoder_num_heads: int = 12,
        radius: float | None = None,
        attention: Literal["explicit", "sdpa"] = "explicit",
        **sizes,
    ):
        super().__init__(
            img_size=img_size,
            decoder_embed_dim=decoder_embed_dim,
            decoder_num_heads=decoder_num_heads,
            attention=attention,
            **sizes,
        )
        self.filter = nn.Identity() if radius is None else LowFrequencyTarget(img_size, radius)

    def forward(self, images: Tensor, ids_keep: Tensor, ids_restore: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the loss of a batch.

        Args:
            images: (B, 3, H, W) float, mean/std-normalised.
            ids_keep: (B, K) visible patches.
            ids_restore: (B, L), the inverse of the permutation that begins with `ids_keep`.

        Returns:
            The loss (), predictions (B, L, p*p*3) of every patch in raster order, and the mask (B, L) float, 1 =
            hidden.
        """
        latent, mask, restore = self.forward_encoder(images, (ids_keep, ids_restore))
        pred = self.forward_decoder(latent, restore)
        return self.forward_loss(self.filter(images), pred, mask), pred, mask

    def random_masking(self, x: Tensor, ids: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        ids_keep, restore = ids
        visible = x.gather(1, ids_keep[..., None].expand(-1, -1, x.shape[2]))
        mask = torch.ones(restore.shape, device=x.device)
        mask[:, : ids_keep.shape[1]] = 0
        return visible, mask.gather(1, restore), restore


def from_config(config, attention: Literal["explicit", "sdpa"]) -> LongSequenceMaskedAutoencoder:
    """Returns the published model of a fastmim config.

    Args:
        config: the config.
        attention: "explicit", as published, or "sdpa".

    Raises:
        ValueError: the config is not of long-sequence MAE.
    """
    kinds = [type(part).__name__ for part in (config.masking, config.encoder)]
    if kinds != ["JointMasking", "ViT"]:
        raise ValueError(f"long-sequence MAE is JointMasking, ViT; the config has {', '.join(kinds)}")
    radius = low_pass_radius(config.target)
    return LongSequenceMaskedAutoencoder(
        **sizes(config), **vit_sizes(config.encoder), radius=radius, attention=attention
    )


def inputs(mask) -> tuple[Tensor, Tensor]:
    """Returns ids_keep and ids_restore of a fastmim mask."""
    return mask.ids_keep, mask.ids.argsort(dim=1)
