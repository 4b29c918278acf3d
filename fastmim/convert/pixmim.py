"""The checkpoints of PixMIM in open-mmlab/mmselfsup. May import L3 and below."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastmim_kernels.low_pass import disc

from ..config.base import Config
from ..data.crops import SimpleResizedCrop
from ..model.targets import LowPass
from .format import Format, Rule
from .mae import vit_config


def pixmim_config(state: dict[str, Tensor]) -> Config:
    """PixMIM's configuration for a ViT of these weights.

    Raises:
        ValueError: sizes that none of the papers has.
    """
    config = vit_config(state, target=LowPass())
    return replace(config, data=replace(config.data, crop=SimpleResizedCrop()))


def low_pass_filter(mim: Any) -> dict[str, Tensor]:
    """The filter that the official code stores: (C, H, W), 0 or 1, its origin in the middle; none of other targets."""
    target, encoder = mim.objective.target, mim.encoder
    if not isinstance(target, LowPass):
        return {}
    size = tuple(n * encoder.patch_size for n in encoder.grid)
    kept = torch.fft.fftshift(disc(size, target.radius, target.center == "official")).float()
    return {"target_generator.low_pass_filter": kept.expand(len(mim.objective.mean), *size)}


def _blocks(official: str, ours: str) -> tuple[Rule, ...]:
    names = {"ln1": "norm1", "ln2": "norm2", "ffn.layers.0.0": "mlp.fc1", "ffn.layers.1": "mlp.fc2"}
    names |= {"attn.qkv": "attn.qkv", "attn.proj": "attn.proj"}
    return tuple(Rule(f"{official}.{{i}}.{old}.{{p}}", f"{ours}.{{i}}.{new}.{{p}}") for old, new in names.items())


# Position tables are copied, never computed: mmselfsup's are the transpose of facebookresearch/mae's, rows first.
RULES = (
    Rule("backbone.cls_token", "encoder.cls_token"),
    Rule("backbone.pos_embed", "encoder.pos_embed"),
    Rule("backbone.patch_embed.projection.{p}", "encoder.patch_embed.proj.{p}"),
    *_blocks("backbone.layers", "encoder.blocks"),
    Rule("backbone.ln1.{p}", "encoder.norm.{p}"),
    Rule("neck.mask_token", "decoder.mask_token"),
    Rule("neck.decoder_pos_embed", "decoder.pos_embed"),
    *_blocks("neck.decoder_blocks", "decoder.blocks"),
    Rule("neck.decoder_embed.{p}", "decoder.embed.{p}"),
    Rule("neck.ln1.{p}", "decoder.norm.{p}"),
    Rule("neck.decoder_pred.{p}", "decoder.pred.{p}"),
)
FORMATS = (
    Format(
        name="PixMIM (open-mmlab/mmselfsup)",
        container="state_dict",
        marks=(r"backbone\.cls_token", r"neck\.decoder_embed\.weight", r"target_generator\.low_pass_filter"),
        rules=RULES,
        ignored=(r"target_generator\.low_pass_filter",),
        config=pixmim_config,
        derived=low_pass_filter,
    ),
)
