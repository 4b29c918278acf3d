"""Checkpoints of PixMIM in open-mmlab/mmselfsup."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastmim_kernels.low_pass import disc

from ..config.base import Config
from ..data.crops import SimpleResizedCrop
from ..model.mim import MIM
from ..model.targets import LowPass
from .checkpoint_format import CheckpointFormat, Rule
from .mae import vit_config


def pixmim_config(state: dict[str, Tensor]) -> Config:
    """Returns PixMIM's configuration for the weights of a ViT.

    Raises:
        ValueError: the sizes are not those of a published model.
    """
    config = vit_config(state, target=LowPass())
    return replace(config, data=replace(config.data, crop=SimpleResizedCrop()))


def low_pass_filter(mim: MIM) -> dict[str, Tensor]:
    """Returns the low-pass filter that the official code saves, or an empty dict for another target.

    The filter is (C, H, W) of 0 and 1, with the zero frequency in the middle.
    """
    target, encoder = mim.objective.target, mim.encoder
    if not isinstance(target, LowPass):
        return {}
    size = encoder.image_size
    kept = torch.fft.fftshift(disc(size, target.radius, target.center == "official")).float()
    return {"target_generator.low_pass_filter": kept.expand(len(mim.objective.mean), *size)}


def _blocks(official: str, ours: str) -> tuple[Rule, ...]:
    names = {"ln1": "norm1", "ln2": "norm2", "ffn.layers.0.0": "mlp.fc1", "ffn.layers.1": "mlp.fc2"}
    names |= {"attn.qkv": "attn.qkv", "attn.proj": "attn.proj"}
    return tuple(Rule(f"{official}.{{i}}.{old}.{{p}}", f"{ours}.{{i}}.{new}.{{p}}") for old, new in names.items())


# Position embeddings are copied, never computed, because mmselfsup's table is facebookresearch/mae's with rows and
# columns exchanged.
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
    CheckpointFormat(
        name="PixMIM (open-mmlab/mmselfsup)",
        container="state_dict",
        marks=(r"backbone\.cls_token", r"neck\.decoder_embed\.weight", r"target_generator\.low_pass_filter"),
        rules=RULES,
        ignored=(r"target_generator\.low_pass_filter",),
        config=pixmim_config,
        derived=low_pass_filter,
    ),
)
