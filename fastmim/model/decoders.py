"""Decoders: latent tokens to predictions of patches. May import timm, L1 and L0."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastmim_kernels import patch_gather, unshuffle

from ..config.fields import check_bounds, check_types
from ..parts import Decoder
from ..tokens import Mask, init_transformer, run_blocks, sincos_position_embedding, take

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block


@dataclass(frozen=True)
class TransformerDecoder(Decoder):
    """MAE's decoder: a narrow transformer over visible and mask tokens (arXiv:2111.06377, section 3)."""

    dim: int = 512
    """Width."""
    depth: int = 8
    """Transformer blocks."""
    num_heads: int = 16
    """Attention heads."""
    order: Literal["visible_first", "raster"] = "visible_first"
    """Order of the tokens. Attention does not see it: "raster", the official one, gives the same and costs more."""
    official_pos_order: bool = False
    """UM-MAE's official Swin and PVT (models_mae_swin.py `forward_decoder`) give the visible tokens, which are in the
    order of their blocks, the positions of the visible patches in raster order: most get another patch's. True does
    as they do; False gives each token its own position."""

    def __post_init__(self):
        check_types(self, "decoder.")
        check_bounds(self, "decoder.", "dim", "depth", "num_heads", at_least=1)
        if self.dim % self.num_heads:
            raise ValueError(f"decoder.dim={self.dim} must be a multiple of decoder.num_heads={self.num_heads}")

    def build(self, encoder: nn.Module) -> nn.Module:
        if self.official_pos_order and (encoder.reads == "all" or encoder.merge == 1):
            raise ValueError(
                "decoder.official_pos_order is for an encoder that reads a compacted image, whose tokens are in the "
                "order of their blocks (UMSwin, UMPVT); set it to False here"
            )
        return TransformerDecoderModule(self, encoder)


class LastBlock(nn.Module):
    """A block of which only the last tokens are wanted: they attend to all, the others stop at key and value."""

    def __init__(self, block: Block):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp

    def forward(self, x: Tensor, num_tokens: int) -> Tensor:
        """(B, N, D) to (B, num_tokens, D): the last rows of what `Block` returns."""
        attn, dim = self.attn, x.shape[-1]
        y, x = self.norm1(x), x[:, -num_tokens:]
        weight, bias = attn.qkv.weight, attn.qkv.bias
        q = F.linear(y[:, -num_tokens:], weight[:dim], bias[:dim]).unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
        kv = F.linear(y, weight[dim:], bias[dim:]).unflatten(2, (2, attn.num_heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        x = x + attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class TransformerDecoderModule(nn.Module):
    """`decoder(latent, mask, num_pred) -> (B, num_pred, P)`, see `tokens.Decoder`.

    Tokens stay in the order (prefix, visible, hidden) in which they arrive. Attention does not see an order, only the
    position embeddings, so MAE's un-shuffle to raster order would move every token and change no result; and the
    predictions of interest are then simply the last rows: norm and head run on the hidden quarters only, and so do the
    queries and the MLP of the last block.

    From an encoder that reads all of the image, every patch has its own token, and there are no mask tokens.
    """

    def __init__(self, spec: TransformerDecoder, encoder: nn.Module):
        from timm.models.vision_transformer import Block

        super().__init__()
        self.grad_checkpointing = False
        self.raster, self.official_pos_order = spec.order == "raster", spec.official_pos_order
        self.prefix, self.merge, self.reads = encoder.num_prefix_tokens, encoder.merge, encoder.reads
        shrink = encoder.merge * (2 if encoder.reads == "visible" else 1)
        self.latent_grid = (encoder.grid[0] // shrink, encoder.grid[1] // shrink)
        self.embed = nn.Linear(encoder.embed_dim, spec.dim * encoder.merge**2)
        if encoder.reads == "visible":
            self.mask_token = nn.Parameter(torch.zeros(1, 1, spec.dim))
            nn.init.normal_(self.mask_token, std=0.02)
        pos_embed = sincos_position_embedding(spec.dim, encoder.grid, num_prefix_tokens=encoder.num_prefix_tokens)
        self.pos_embed = nn.Parameter(pos_embed, requires_grad=False)
        norm = partial(nn.LayerNorm, eps=1e-6)
        blocks = [Block(spec.dim, spec.num_heads, qkv_bias=True, norm_layer=norm) for _ in range(spec.depth)]
        self.blocks = nn.Sequential(*blocks[:-1], LastBlock(blocks[-1]))
        self.norm = norm(spec.dim)
        self.pred = nn.Linear(spec.dim, encoder.patch_values)
        self.apply(init_transformer)

    def forward(self, latent: Tensor, mask: Mask, num_pred: int) -> Tensor:
        x = self.tokens(self.unmerge(self.embed(latent)), mask)
        *blocks, last_block = self.blocks
        x = run_blocks(blocks, x, self.grad_checkpointing)
        if self.raster:
            x = take(last_block(x, x.shape[1])[:, self.prefix :], mask.ids[:, -num_pred:])
        else:
            x = last_block(x, num_pred)
        return self.pred(self.norm(x))

    def unmerge(self, x: Tensor) -> Tensor:
        """(B, N, dim * m * m) latent tokens of m x m patches each to (B, N * m * m, dim), a raster of their patches.

        The channels are (dim, row, column), as `PixelShuffle` has them.
        """
        m = self.merge
        if m == 1:
            return x
        x = x.unflatten(2, (-1, m, m)).unflatten(1, self.latent_grid)
        return x.permute(0, 1, 4, 2, 5, 3).flatten(1, 4)

    def tokens(self, x: Tensor, mask: Mask) -> Tensor:
        """(B, prefix + L, dim): embedded tokens, mask tokens and positions."""
        if self.reads == "all":
            x = x + self.pos_embed
            patches = x[:, self.prefix :]
            return x if self.raster else torch.cat([x[:, : self.prefix], take(patches, mask.ids)], dim=1)
        ids = mask.ids
        if self.official_pos_order:
            ids = torch.cat([mask.ids_keep.sort(dim=1).values, mask.ids_hidden], dim=1)
        return unshuffle(x, self.mask_token, self.pos_embed, ids, raster=self.raster)


@dataclass(frozen=True)
class LinearHead(Decoder):
    """One linear layer from each latent token to the pixels it stands for (SimMIM, arXiv:2111.09886, section 3.3).

    SimMIM and A2MIM write it as a 1x1 convolution and a pixel shuffle.
    """

    layout: Literal["channels_first", "channels_last"] = "channels_first"
    """Order of the weight's rows: (channel, row, column) of the token's whole square, as PixelShuffle(stride) reads
    them (SimMIM, A2MIM); or (row, column, channel, patch) as UM-MAE's repository does (PixelShuffle of patches)."""
    init: Literal["torch", "trunc_normal", "xavier"] = "torch"
    """torch's default for a convolution (SimMIM), normal of deviation 0.02 (A2MIM), Xavier-uniform (UM-MAE)."""

    def build(self, encoder: nn.Module) -> nn.Module:
        if encoder.reads != "all":
            raise ValueError(
                "decoder: LinearHead predicts a patch from the encoder's token at its place, and this encoder has none "
                "for hidden patches (reads = visible); use TransformerDecoder, or an encoder that reads all"
            )
        return LinearHeadModule(self, encoder)


class LinearHeadModule(nn.Linear):
    """`decoder(latent, mask, num_pred) -> (B, num_pred, P)`, see `tokens.Decoder`.

    The weight keeps the official order of its rows. The forward pass reorders them, not the far larger predictions.
    """

    def __init__(self, spec: LinearHead, encoder: nn.Module):
        super().__init__(encoder.embed_dim, encoder.patch_values * encoder.merge**2)
        if spec.init != "torch":
            init = nn.init.xavier_uniform_ if spec.init == "xavier" else partial(nn.init.trunc_normal_, std=0.02)
            init(self.weight)
            nn.init.zeros_(self.bias)
        self.grad_checkpointing = False
        self.channels_first = spec.layout == "channels_first"
        self.prefix, self.merge, self.patch_size = encoder.num_prefix_tokens, encoder.merge, encoder.patch_size
        rows, columns = (n // encoder.merge for n in encoder.grid)
        place = torch.arange(rows * columns * self.merge**2).view(rows, columns, self.merge, self.merge)
        self.register_buffer("place", place.transpose(1, 2).flatten(), persistent=False)

    def forward(self, latent: Tensor, mask: Mask, num_pred: int) -> Tensor:
        x, ids = latent[:, self.prefix :], mask.ids[:, -num_pred:]
        weight, bias = self.by_patch(self.weight), self.by_patch(self.bias)
        if self.merge == 1:
            return F.linear(take(x, ids), weight, bias)
        x = F.linear(x, weight, bias).unflatten(2, (self.merge**2, 1, -1)).flatten(1, 2)
        # What is predicted lies by tokens: each patch is a pixel of an image of one column.
        same = x.new_ones(x.shape[-1], dtype=torch.float32)
        return patch_gather(x, self.place[ids], 1, same, same, x.dtype)

    def by_patch(self, rows: Tensor) -> Tensor:
        """Rows of the weight or bias in the order (patch row, patch column, row, column, channel)."""
        m, p = self.merge, self.patch_size
        if self.channels_first:
            return rows.unflatten(0, (-1, m, p, m, p)).movedim((1, 3, 2, 4, 0), (0, 1, 2, 3, 4)).flatten(0, 4)
        return rows.unflatten(0, (p * p, -1, m, m)).movedim((2, 3), (0, 1)).flatten(0, 3)
