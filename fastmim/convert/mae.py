"""The checkpoints of facebookresearch/mae and long_seq_mae, whole or encoder only. May import L3 and below."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..config.base import Config, Data
from ..data.crops import RandomResizedCrop
from ..model.decoders import TransformerDecoder
from ..model.encoders import ViT
from ..model.losses import MaskedL2
from ..model.masking import JointMasking, RandomMasking
from ..model.targets import NormalizedPatches
from .format import Format, Rule
from .shapes import State, count, shape

# Heads cannot be seen in shapes. timm's names stand for the published ones, by width.
MODELS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
DECODER_HEADS = {384: 12, 512: 16}
LONG_GRID = 28  # of all of long_seq_mae, which hides blocks of 2x2 patches; of no published MAE


def vit_config(state: State, **parts: Any) -> Config:
    """The configuration of MAE, or long-sequence MAE, for a ViT of these weights; `parts` replace those.

    Raises:
        ValueError: a width that none of the papers has, a grid that is no square, or channels other than 3.
    """
    dim, channels, patch_size, _ = shape(state, "encoder.patch_embed.proj.weight", 4)
    _, positions, _ = shape(state, "encoder.pos_embed", 3)
    side = math.isqrt(max(positions - 1, 0))
    if dim not in MODELS or channels != 3 or patch_size < 1 or side < 1 or side**2 + 1 != positions:
        raise ValueError(
            f"the file's shapes (width {dim}, {channels} channels, {positions} positions) are of none of the "
            f"published models (widths {', '.join(map(str, MODELS))}; 3 channels; a square image and a class token)"
        )
    published = 14 if dim == 1280 else 16
    name = f"vit_{MODELS[dim]}_patch{published}_224"
    depth = count(state, "encoder.blocks.")
    encoder = ViT(name, patch_size=None if patch_size == published else patch_size, depth=depth)
    decoder = TransformerDecoder()
    if depth := count(state, "decoder.blocks."):
        dim = state["decoder.embed.weight"].shape[0] if "decoder.embed.weight" in state else decoder.dim
        if dim not in DECODER_HEADS:
            raise ValueError(f"the heads of a decoder of width {dim} cannot be told from the file's shapes")
        decoder = TransformerDecoder(dim=dim, depth=depth, num_heads=DECODER_HEADS[dim])
    mae = {
        "masking": JointMasking() if side == LONG_GRID else RandomMasking(),
        "encoder": encoder,
        "decoder": decoder,
        "target": NormalizedPatches(),
        "loss": MaskedL2(),
        "data": Data(crop=RandomResizedCrop(scale=(0.2, 1.0)), size=(side * patch_size, side * patch_size)),
    }
    return Config(**mae | parts)


def join_biases(state: State) -> State:
    """long_seq_mae's `--no_k_bias_in_vit` has no bias of the key, which changes nothing, and two tensors."""
    joined = dict(state)
    for name in [name for name in state if name.endswith(".attn.q_bias")]:
        attn = name.removesuffix("q_bias")
        if f"{attn}v_bias" in state:
            q, v = joined.pop(name), joined.pop(f"{attn}v_bias")
            joined[f"{attn}qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    return joined


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
        name="MAE (facebookresearch/mae, long_seq_mae)",
        container="model",
        marks=(r"cls_token", r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.qkv\.weight"),
        rules=ENCODER + DECODER,
        config=vit_config,
        prepare=join_biases,
    ),
)
