"""Decoders: networks that predict patches from the tokens of an encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastmim_kernels import patch_gather, unshuffle

from ..config.fields import check_bounds, check_types
from ..parts import Decoder
from ..tokens import Mask, init_transformer, run_blocks, sincos_position_embedding, take
from .encoders.base import EncoderModule


class DecoderModule(nn.Module, ABC):
    """Base class of decoders: `decoder(latent, mask, num_pred) -> (B, num_pred, P)` predictions."""

    grad_checkpointing: bool
    """True if blocks are recomputed in the backward pass instead of stored."""

    def __init__(self):
        super().__init__()
        self.grad_checkpointing = False

    @abstractmethod
    def forward(self, latent: Tensor, mask: Mask, num_pred: int) -> Tensor:
        """Predicts the patches `mask.ids[:, -num_pred:]`: (B, num_pred, P), values (row, column, channel).

        Args:
            latent: (B, num_prefix_tokens + N, D) tokens of the encoder.
            mask: the hidden patches.
            num_pred: number of patches to predict per image.
        """


@dataclass(frozen=True)
class TransformerDecoder(Decoder):
    """MAE's decoder: a narrow transformer over visible and mask tokens (arXiv:2111.06377, section 3)."""

    dim: int = 512
    """Width of the decoder's tokens."""
    depth: int = 8
    """Transformer blocks."""
    num_heads: int = 16
    """Attention heads."""
    order: Literal["visible_first", "raster"] = "visible_first"
    """Order of the decoder's tokens.

    Attention ignores the order, so "raster", the official order, gives the same result at a higher cost.
    """
    official_pos_order: bool = False
    """True = positions as in UM-MAE's official Swin and PVT; False = each token has its own position.

    In the official code (models_mae_swin.py `forward_decoder`), visible tokens are in the order of their blocks, but
    get the positions of visible patches in raster order. So most tokens get the position of another patch.
    """

    def __post_init__(self):
        check_types(self, "decoder.")
        check_bounds(self, "decoder.", "dim", "depth", "num_heads", at_least=1)
        if self.dim % self.num_heads:
            raise ValueError(f"decoder.dim={self.dim} must be a multiple of decoder.num_heads={self.num_heads}")

    def build(self, encoder: EncoderModule) -> TransformerDecoderModule:
        """Builds the network.

        Raises:
            ValueError: `official_pos_order` is set for an encoder that does not read a compacted image.
        """
        if self.official_pos_order and (encoder.reads == "all" or encoder.merge == 1):
            raise ValueError(
                "decoder.official_pos_order is for an encoder that reads a compacted image, whose tokens are in the "
                "order of their blocks (UMSwin, UMPVT); set it to False here"
            )
        return TransformerDecoderModule(self, encoder)


class LastBlock(nn.Module):
    """A transformer block that returns its last tokens only.

    The last tokens attend to all tokens. For the other tokens, the block computes only keys and values.
    """

    def __init__(self, block: Any):
        """Takes the layers of a timm `Block`."""
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp

    def forward(self, x: Tensor, num_tokens: int) -> Tensor:
        """Maps (B, N, D) to (B, num_tokens, D), the last rows of the output of timm's block."""
        attn, dim = self.attn, x.shape[-1]
        y, x = self.norm1(x), x[:, -num_tokens:]
        weight, bias = attn.qkv.weight, attn.qkv.bias
        q = F.linear(y[:, -num_tokens:], weight[:dim], bias[:dim]).unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
        kv = F.linear(y, weight[dim:], bias[dim:]).unflatten(2, (2, attn.num_heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        x = x + attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class TransformerDecoderModule(DecoderModule):
    """The network of `TransformerDecoder`.

    Tokens stay in the order (prefix, visible, hidden), in which they arrive. Attention ignores the order, so MAE's
    un-shuffle to raster order would move every token without changing a result. The hidden patches are the last tokens.
    So the norm, the head, and the queries and the MLP of the last block run on hidden patches only.

    If the encoder reads whole images, every patch has its own token, and there are no mask tokens.
    """

    mask_token: nn.Parameter
    """(1, 1, dim) token of hidden patches, if the encoder reads visible patches only."""

    def __init__(self, spec: TransformerDecoder, encoder: EncoderModule):
        from timm.models.vision_transformer import Block

        super().__init__()
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
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
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
        """Splits each (B, N, dim * m * m) token into its m x m patches: (B, N * m * m, dim).

        The patches are in raster order. The channels of a token are ordered (dim, row, column), as in `PixelShuffle`.
        """
        m = self.merge
        if m == 1:
            return x
        x = x.unflatten(2, (-1, m, m)).unflatten(1, self.latent_grid)
        return x.permute(0, 1, 4, 2, 5, 3).flatten(1, 4)

    def tokens(self, x: Tensor, mask: Mask) -> Tensor:
        """Adds mask tokens and positions to the embedded tokens: (B, prefix + L, dim)."""
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
    """One linear layer from each latent token to the pixels of its patches.

    Source: SimMIM, arXiv:2111.09886, section 3.3. SimMIM and A2MIM write the layer as a 1x1 convolution and a pixel
    shuffle.
    """

    layout: Literal["channels_first", "channels_last"] = "channels_first"
    """Order of the weight's rows.

    "channels_first" = (channel, row, column) of the token's whole square, which PixelShuffle(stride) reads (SimMIM,
    A2MIM). "channels_last" = (row, column, channel, patch), which UM-MAE's code uses (PixelShuffle of patches).
    """
    init: Literal["torch", "trunc_normal", "xavier"] = "torch"
    """Initialisation of the weight.

    "torch" = torch's default for a convolution (SimMIM), "trunc_normal" = normal with deviation 0.02 (A2MIM), "xavier"
    = Xavier-uniform (UM-MAE).
    """

    def build(self, encoder: EncoderModule) -> LinearHeadModule:
        """Builds the network.

        Raises:
            ValueError: the encoder has no tokens for hidden patches.
        """
        if encoder.reads != "all":
            raise ValueError(
                "decoder: LinearHead predicts a patch from the encoder's token at its place, and this encoder has none "
                "for hidden patches (reads = visible); use TransformerDecoder, or an encoder that reads all"
            )
        return LinearHeadModule(self, encoder)


class LinearHeadModule(DecoderModule):
    """The network of `LinearHead`.

    The weight keeps the official order of its rows. The forward pass reorders the rows, which are far fewer than the
    predictions.
    """

    place: Tensor
    """(L,) index of each patch when patches are ordered by the encoder's token that covers them."""

    def __init__(self, spec: LinearHead, encoder: EncoderModule):
        super().__init__()
        linear = nn.Linear(encoder.embed_dim, encoder.patch_values * encoder.merge**2)
        self.weight, self.bias = linear.weight, linear.bias
        if spec.init != "torch":
            init = nn.init.xavier_uniform_ if spec.init == "xavier" else partial(nn.init.trunc_normal_, std=0.02)
            init(self.weight)
            nn.init.zeros_(self.bias)
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
        # Predictions are ordered by token. To gather them, each patch counts as one pixel of an image of one column.
        same = x.new_ones(x.shape[-1], dtype=torch.float32)
        return patch_gather(x, self.place[ids], 1, same, same, x.dtype)

    def by_patch(self, rows: Tensor) -> Tensor:
        """Reorders rows of the weight or bias to (patch row, patch column, row, column, channel)."""
        m, p = self.merge, self.patch_size
        if self.channels_first:
            return rows.unflatten(0, (-1, m, p, m, p)).movedim((1, 3, 2, 4, 0), (0, 1, 2, 3, 4)).flatten(0, 4)
        return rows.unflatten(0, (p * p, -1, m, m)).movedim((2, 3), (0, 1)).flatten(0, 3)
