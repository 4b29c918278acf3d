"""Checkpoints of facebookresearch/mae and long_seq_mae, with or without decoder."""

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
from .checkpoint_format import CheckpointFormat, Rule
from .model_sizes import State, count_blocks, tensor_shape

MODELS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
"""timm's names of the published ViTs, by width.

The name gives the number of heads, which the shapes of weights do not determine.
"""
DECODER_HEADS = {384: 12, 512: 16}
"""Heads of the published decoders, by width."""
LONG_GRID = 28
"""Side of the grid of all models of long_seq_mae, which hide blocks of 2x2 patches.

No published MAE has this grid.
"""


def vit_config(state: State, **parts: Any) -> Config:
    """Returns the configuration of MAE or long-sequence MAE for the weights of a ViT.

    Args:
        state: the weights by fastmim's names.
        **parts: fields of the configuration that replace MAE's.

    Raises:
        ValueError: the width is not that of a published model, the grid is not square, or there are not 3 channels.
    """
    dim, channels, patch_size, _ = tensor_shape(state, "encoder.patch_embed.proj.weight", 4)
    _, positions, _ = tensor_shape(state, "encoder.pos_embed", 3)
    side = math.isqrt(max(positions - 1, 0))
    if dim not in MODELS or channels != 3 or patch_size < 1 or side < 1 or side**2 + 1 != positions:
        raise ValueError(
            f"expected the shapes of a published model (width {', '.join(map(str, MODELS))}; 3 channels; a square "
            f"image and a class token), got width {dim}, {channels} channels, {positions} positions"
        )
    published = 14 if dim == 1280 else 16
    name = f"vit_{MODELS[dim]}_patch{published}_224"
    depth = count_blocks(state, "encoder.blocks.")
    encoder = ViT(name, patch_size=None if patch_size == published else patch_size, depth=depth)
    decoder = TransformerDecoder()
    if depth := count_blocks(state, "decoder.blocks."):
        dim = state["decoder.embed.weight"].shape[0] if "decoder.embed.weight" in state else decoder.dim
        if dim not in DECODER_HEADS:
            raise ValueError(f"the file's shapes do not determine the number of heads of a decoder of width {dim}")
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
    """Joins the biases of query and value into one tensor, with zeros as the bias of the key.

    long_seq_mae's `--no_k_bias_in_vit` saves the two biases separately. A bias of the key has no effect on attention.
    """
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
    CheckpointFormat(
        name="MAE (facebookresearch/mae, long_seq_mae)",
        container="model",
        marks=(r"cls_token", r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.qkv\.weight"),
        rules=ENCODER + DECODER,
        config=vit_config,
        prepare=join_biases,
    ),
)
