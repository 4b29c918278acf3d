"""Decoders: latent tokens to predictions of the hidden patches. May import timm, L1 and L0."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from fastmim_kernels import unshuffle

from .tokens import Decoder, Mask, init_transformer, sincos_position_embedding


@dataclass(frozen=True)
class TransformerDecoder(Decoder):
    """MAE's decoder: a narrow transformer over visible and mask tokens (arXiv:2111.06377, section 3)."""

    dim: int = 512
    """Width."""
    depth: int = 8
    """Transformer blocks."""
    num_heads: int = 16
    """Attention heads."""

    def __post_init__(self):
        if self.dim % self.num_heads:
            raise ValueError(f"decoder.dim={self.dim} must be a multiple of decoder.num_heads={self.num_heads}")

    def build(self, encoder: nn.Module) -> nn.Module:
        return TransformerDecoderModule(self, encoder)


class LastBlock(Block):
    """A block of which only the last tokens are wanted: they attend to all, the others stop at key and value."""

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
    """Predicts hidden patches: `decoder(latent, mask) -> (B, L - K, P)`.

    Tokens stay in the order (prefix, visible, hidden) in which they arrive. Attention does not see an order, only the
    position embeddings, so MAE's un-shuffle to raster order would move every token and change no result; and the
    predictions of interest are then simply the last rows: norm and head run on the hidden quarters only, and so do the
    queries and the MLP of the last block.
    """

    def __init__(self, spec: TransformerDecoder, encoder: nn.Module):
        super().__init__()
        self.grad_checkpointing = False
        self.embed = nn.Linear(encoder.embed_dim, spec.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, spec.dim))
        pos_embed = sincos_position_embedding(spec.dim, encoder.grid, num_prefix_tokens=encoder.num_prefix_tokens)
        self.pos_embed = nn.Parameter(pos_embed, requires_grad=False)
        norm = partial(nn.LayerNorm, eps=1e-6)
        kinds = [Block] * (spec.depth - 1) + [LastBlock]
        self.blocks = nn.Sequential(*(kind(spec.dim, spec.num_heads, qkv_bias=True, norm_layer=norm) for kind in kinds))
        self.norm = norm(spec.dim)
        self.pred = nn.Linear(spec.dim, encoder.patch_values)
        self.apply(init_transformer)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, latent: Tensor, mask: Mask) -> Tensor:
        x = unshuffle(self.embed(latent), self.mask_token, self.pos_embed, mask.ids, raster=False)
        blocks, last_block = self.blocks[:-1], self.blocks[-1]
        x = checkpoint_seq(blocks, x) if self.grad_checkpointing else blocks(x)
        return self.pred(self.norm(last_block(x, mask.ids_hidden.shape[1])))
