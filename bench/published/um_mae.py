"""UM-MAE as published (arXiv:2205.10063; implus/UM-MAE), and the SimMIM of that repository.

Every token is embedded, hidden tokens are zeroed, and a convolution with a kernel of ones compacts the map. Every patch
is predicted. Parameter names are the official ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Block, LayerNorm, PatchEmbed, normalize_patches, patchify, vit_sizes
from .um_pyramids import PATCH, PVT, TOKEN, Kind, Pyramid, Swin, compact


def draw_secondary(mask: Tensor, ratio: float, noise: Tensor) -> Tensor:
    """Returns (B, L) bool, the visible patches to replace.

    The int(V * (1 - ratio)) visible patches of the smallest noise, (B, L), are kept.
    """
    keep = int((~mask[0]).sum() * (1 - ratio))
    rank = (mask.float() + noise).argsort(dim=1).argsort(dim=1)
    return (rank >= keep) & ~mask


class PatchDecoder:
    """Base class with the decoder and loss of `UniformMAE` and `UniformViT`.

    The decoder reads visible tokens, then hidden tokens.
    """

    def make_decoder(
        self, latent_dim: int, merge: int, prefix: int, patches: int, dim: int, depth: int, heads: int, kind: Kind
    ):
        self.merge, self.prefix = merge, prefix
        self.decoder_embed = nn.Linear(latent_dim, merge**2 * dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, prefix + patches, dim), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(dim, heads, kind) for _ in range(depth))
        self.decoder_norm = LayerNorm(dim)
        self.decoder_pred = nn.Linear(dim, PATCH**2 * 3)

    def forward_decoder(self, latent: Tensor, mask: Tensor) -> Tensor:
        """Returns predictions (B, L, P) of the visible patches, then of the hidden patches in raster order.

        As in the official code, visible tokens of a pyramid come in the order of their 2x2 blocks, but get the position
        embeddings of visible patches in raster order. So three quarters of them get the embedding of another patch.
        """
        x = self.decoder_embed(latent)
        if self.merge > 1:
            side = int(x.shape[1] ** 0.5)
            x = F.pixel_shuffle(x.transpose(1, 2).reshape(len(x), -1, side, side), self.merge)
            x = x.flatten(2).transpose(1, 2)
        b, _, dim = x.shape
        prefix_pos, pos = self.decoder_pos_embed.expand(b, -1, -1).tensor_split([self.prefix], dim=1)
        visible, hidden = (pos[rows].reshape(b, -1, dim) for rows in (~mask, mask))
        x = torch.cat([x + torch.cat([prefix_pos, visible], dim=1), self.mask_token + hidden], dim=1)
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, self.prefix :]

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Returns the loss of predictions of the hidden patches, (B, hidden, P)."""
        target = patchify(images, PATCH)[mask].reshape(pred.shape)
        if self.norm_pix_loss:
            target = normalize_patches(target)
        return ((pred - target) ** 2).mean()

    def forward(
        self, images: Tensor, mask: Tensor, secondary: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Returns the loss of a batch.

        Args:
            images: (B, 3, H, W) float, mean/std-normalised.
            mask: (B, L) bool in raster order, True = hidden.
            secondary: (B, L) bool, True = visible but replaced by the learned token; None = drawn here, as published.

        Returns:
            The loss (), predictions (B, L, P) of the visible and then of the hidden patches, and the mask.
        """
        if secondary is None:
            secondary = self.draw_secondary(mask)
        pred = self.forward_decoder(self.forward_encoder(images, mask, secondary), mask)
        return self.forward_loss(images, pred[:, -int(mask[0].sum()) :], mask), pred, mask


class UniformMAE(PatchDecoder, Pyramid):
    """UM-MAE of a pyramid: one visible patch in each 2x2 block, compacted to a dense map."""

    def __init__(
        self,
        backbone: Swin | PVT,
        img_size: int = 256,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 2,
        decoder_num_heads: int = 16,
        norm_pix_loss: bool = True,
        vis_mask_ratio: float = 0.25,
        attention: Kind = "explicit",
    ):
        super().__init__(backbone, img_size, compacted=True, kind=attention)
        self.norm_pix_loss, self.vis_mask_ratio = norm_pix_loss, vis_mask_ratio
        if vis_mask_ratio > 0:
            self.vis_mask_token = nn.Parameter(torch.zeros(1, 1, backbone.dims[0]))
        sizes = (decoder_embed_dim, decoder_depth, decoder_num_heads)
        self.make_decoder(backbone.dims[-1], 2, 0, (img_size // PATCH) ** 2, *sizes, attention)

    def draw_secondary(self, mask: Tensor) -> Tensor:
        return draw_secondary(mask, self.vis_mask_ratio, torch.rand(mask.shape, device=mask.device))

    def compact_tokens(self, images: Tensor, mask: Tensor, secondary: Tensor) -> tuple[Tensor, Tensor]:
        """Returns tokens (B, H/2, W/2, C), and their rows and columns in the whole grid, (B, H/2, W/2, 2)."""
        x = self.patch_embed(images)
        visible, replaced = ~self.enlarge(mask), self.enlarge(secondary)
        x = x * (visible & ~replaced)
        if self.vis_mask_ratio > 0:
            x = x + self.patch_embed.norm(self.vis_mask_token) * replaced
        maps = [x, self.pos * visible]
        if hasattr(self, "pos_embed"):
            maps.append(self.pos_embed.reshape(1, *x.shape[1:]) * visible)
        x, pos, *embedding = (compact(m.permute(0, 3, 1, 2), PATCH // TOKEN).permute(0, 2, 3, 1) for m in maps)
        return sum(embedding, x), pos

    def forward_encoder(self, images: Tensor, mask: Tensor, secondary: Tensor) -> Tensor:
        return self.transform(*self.compact_tokens(images, mask, secondary))


class UniformViT(PatchDecoder, nn.Module):
    """UM-MAE of a plain ViT: MAE on uniform masks, with secondary masking; the defaults are ViT-B."""

    def __init__(
        self,
        img_size: int = 224,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 2,
        decoder_num_heads: int = 16,
        norm_pix_loss: bool = True,
        vis_mask_ratio: float = 0.25,
        attention: Kind = "explicit",
    ):
        super().__init__()
        self.norm_pix_loss, self.vis_mask_ratio = norm_pix_loss, vis_mask_ratio
        patches = (img_size // PATCH) ** 2
        if vis_mask_ratio > 0:
            self.vis_mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.patch_embed = PatchEmbed(PATCH, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, embed_dim), requires_grad=False)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, attention) for _ in range(depth))
        self.norm = LayerNorm(embed_dim)
        sizes = (decoder_embed_dim, decoder_depth, decoder_num_heads)
        self.make_decoder(embed_dim, 1, 1, patches, *sizes, attention)

    def draw_secondary(self, mask: Tensor) -> Tensor:
        """Draws like the pyramids, but replaces the j-th visible patch if entry j of the argsort is large."""
        visible = len(mask[0]) - int(mask[0].sum())
        order = torch.rand(len(mask), visible, device=mask.device).argsort(dim=1)
        replaced = order >= int(visible * (1 - self.vis_mask_ratio))
        return torch.zeros_like(mask).masked_scatter(~mask, replaced)

    def forward_encoder(self, images: Tensor, mask: Tensor, secondary: Tensor) -> Tensor:
        pos = self.pos_embed[:, 1:]
        x = self.patch_embed(images) + pos
        b, _, dim = x.shape
        x = x[~mask].reshape(b, -1, dim)
        if self.vis_mask_ratio > 0:
            token = (self.vis_mask_token + pos).expand(b, -1, -1)[~mask].reshape(x.shape)
            replaced = secondary[~mask].reshape(b, -1, 1).to(x.dtype)
            x = x * (1 - replaced) + token * replaced
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(b, -1, -1)
        x = torch.cat([cls_token, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class SimMIM(Pyramid):
    """SimMIM of the repository: the whole grid, a mask token after the embedding, a linear head, L1 loss."""

    def __init__(
        self,
        backbone: Swin | PVT,
        img_size: int = 256,
        norm_pix_loss: bool = False,
        attention: Kind = "explicit",
    ):
        super().__init__(backbone, img_size, compacted=False, kind=attention)
        self.norm_pix_loss = norm_pix_loss
        self.mask_token = nn.Parameter(torch.zeros(1, 1, backbone.dims[0]))
        self.decoder_pred = nn.Linear(backbone.dims[-1], 4 * PATCH**2 * 3)

    def forward(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the results of `PatchDecoder.forward`, with predictions (B, L, P) in raster order."""
        pred = self.forward_decoder(self.forward_encoder(images, mask))
        return self.forward_loss(images, pred, mask), pred, mask

    def forward_encoder(self, images: Tensor, mask: Tensor) -> Tensor:
        x = self.patch_embed(images)
        hidden = self.enlarge(mask).to(x.dtype)
        x = x * (1 - hidden) + self.mask_token * hidden
        if hasattr(self, "pos_embed"):
            x = x + self.pos_embed.reshape(1, *x.shape[1:])
        return self.transform(x, self.pos)

    def forward_decoder(self, latent: Tensor) -> Tensor:
        b, tokens, _ = latent.shape
        side = int(tokens**0.5)
        x = self.decoder_pred(latent).transpose(1, 2).reshape(b, -1, side, side)
        return F.pixel_shuffle(x, 2).flatten(2).transpose(1, 2)

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        target = patchify(images, PATCH)[mask]
        if self.norm_pix_loss:
            target = normalize_patches(target)
        return (pred[mask] - target).abs().mean()


def from_config(cfg, attention: Kind = "explicit") -> UniformMAE | UniformViT | SimMIM:
    """Returns the published model of a fastmim config.

    Args:
        cfg: the config.
        attention: "explicit", as published, or "sdpa".

    Raises:
        ValueError: the config trains neither UM-MAE nor the repository's SimMIM, or its images are not square.
    """
    encoder, decoder, masking = cfg.encoder, cfg.decoder, cfg.masking
    parts = [type(part).__name__ for part in (encoder, masking, decoder, cfg.target, cfg.loss)]
    known = parts[3] in ("NormalizedPatches", "Pixels") and cfg.data.size[0] == cfg.data.size[1]
    common = {
        "img_size": cfg.data.size[0],
        "norm_pix_loss": parts[3] == "NormalizedPatches",
        "attention": attention,
    }
    if known and parts[1:3] == ["UniformMasking", "TransformerDecoder"] and parts[4] == "MaskedL2":
        common |= {
            "decoder_embed_dim": decoder.dim,
            "decoder_depth": decoder.depth,
            "decoder_num_heads": decoder.num_heads,
            "vis_mask_ratio": masking.secondary,
        }
        if parts[0] == "ViT":
            sizes = vit_sizes(encoder)
            if sizes.pop("patch_size") == PATCH:
                return UniformViT(**common | sizes)
        elif parts[0] in ("UMSwin", "UMPVT") and decoder.official_pos_order:
            return UniformMAE(_backbone(encoder, 2), **common)
    simmim = ["RandomMasking", "LinearHead", parts[3], "MaskedL1"]
    if known and parts[0] in ("UMSwin", "UMPVT") and encoder.reads == "all" and parts[1:] == simmim:
        return SimMIM(_backbone(encoder, 1), **common)
    raise ValueError(
        "expected a config of UM-MAE (UniformMasking, UMSwin, UMPVT or ViT, TransformerDecoder, for a pyramid with "
        "official_pos_order, MaskedL2) or of its repository's SimMIM (RandomMasking, UMSwin or UMPVT with "
        f"reads='all', LinearHead, MaskedL1) on square images, got {', '.join(parts)} on {cfg.data.size}"
    )


def _backbone(encoder, scale: int) -> Swin | PVT:
    """Returns the backbone of a fastmim UMSwin or UMPVT; windows and reductions are `scale` times as wide."""
    if type(encoder).__name__ == "UMSwin":
        sizes = (encoder.embed_dim, encoder.depths, encoder.num_heads, encoder.window // scale, encoder.posmlp_dim)
        return Swin(*sizes)
    reductions = tuple(max(1, n // scale) for n in encoder.reductions)
    return PVT(encoder.dims, encoder.depths, encoder.num_heads, encoder.mlp_ratios, reductions)


def inputs(mask) -> tuple[Tensor, ...]:
    """Returns the inputs after `images` that hide and replace the patches of a fastmim mask."""
    if mask.secondary is None:
        return (mask.mask,)
    return mask.mask, torch.zeros_like(mask.mask).scatter(1, mask.ids_keep, mask.secondary)
