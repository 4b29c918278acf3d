"""Names of facebookresearch/mae's checkpoints, whole or of an encoder alone. May import L3 and below."""

from __future__ import annotations

from . import sizes
from .format import Format, Rule

ENCODER = (
    Rule("cls_token", "encoder.cls_token"),
    Rule("pos_embed", "encoder.pos_embed"),
    Rule("patch_embed.proj.{p}", "encoder.patch_embed.proj.{p}"),
    Rule("blocks.{rest}", "encoder.blocks.{rest}"),
    Rule("norm.{p}", "encoder.norm.{p}"),
)
DECODER = (
    Rule("mask_token", "decoder.mask_token"),
    Rule("decoder_pos_embed", "decoder.pos_embed"),
    Rule("decoder_{part}.{rest}", "decoder.{part}.{rest}"),
)
FORMATS = (
    Format(
        name="MAE (facebookresearch/mae)",
        container="model",
        marks=(r"cls_token", r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.qkv\.weight"),
        rules=ENCODER + DECODER,
        config=sizes.mae,
    ),
)
