"""ViT checkpoints of Westlake-AI/openmixup: A2MIM and its SimMIM baseline."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..config.base import Config
from ..model.decoders import LinearHead
from ..model.losses import FocalFrequency, MaskedL1, WithFourier
from ..model.mim import MIM
from ..parts import Loss
from .checkpoint_format import CheckpointFormat, Rule
from .model_sizes import State, tensor_shape
from .simmim import add_axis, as_convolution, as_linear, beit_sizes, drop_axis, simmim_config


def a2mim_config(state: State) -> Config:
    """Returns A2MIM's configuration for the weights of a ViT.

    Raises:
        ValueError: the shapes do not determine the sizes.
    """
    loss = WithFourier(spatial=MaskedL1(), fourier=FocalFrequency(batch=128), weight=0.1)
    return _config(state, {"fill": "mean", "token": "add"}, loss)


def baseline_config(state: State) -> Config:
    """Returns the configuration of the SimMIM baseline for the weights of a ViT.

    Raises:
        ValueError: the shapes do not determine the sizes.
    """
    return _config(state, {}, MaskedL1())


def _config(state: State, fields: dict[str, Any], loss: Loss) -> Config:
    table = tensor_shape(state, "encoder.backbone.blocks.0.attn.relative_position_bias_table", 2)
    encoder = beit_sizes(state, table, absolute_pos=True, shared_bias=False, init="a2mim", **fields)
    return simmim_config(*encoder, decoder=LinearHead(init="trunc_normal"), loss=loss)


def derived_tables(mim: MIM) -> dict[str, Tensor]:
    """Returns the index table that the official attention of every block saves."""
    buffers = mim.encoder.get_submodule("backbone.blocks").named_buffers(prefix="backbone.layers")
    return {name: t for name, t in buffers if name.endswith(".relative_position_index")}


BLOCK = (
    ("gamma_{n}", "gamma_{n}"),
    ("ln{n}.{p}", "norm{n}.{p}"),
    ("attn.q_bias", "attn.q_bias"),
    ("attn.v_bias", "attn.v_bias"),
    ("attn.relative_position_bias_table", "attn.relative_position_bias_table"),
    ("attn.qkv.weight", "attn.qkv.weight"),
    ("attn.proj.{p}", "attn.proj.{p}"),
    ("ffn.layers.0.0.{p}", "mlp.fc1.{p}"),
    ("ffn.layers.1.{p}", "mlp.fc2.{p}"),
)
VIT = (
    Rule("backbone.mask_token", "encoder.token.mask_token", drop_axis, add_axis),
    Rule("backbone.mask_gamma", "encoder.token.mask_gamma"),
    Rule("backbone.cls_token", "encoder.backbone.cls_token"),
    Rule("backbone.pos_embed", "encoder.backbone.pos_embed"),
    Rule("backbone.patch_embed.projection.{p}", "encoder.backbone.patch_embed.proj.{p}"),
    *(Rule(f"backbone.layers.{{i}}.{official}", f"encoder.backbone.blocks.{{i}}.{ours}") for official, ours in BLOCK),
    Rule("backbone.ln1.{p}", "encoder.backbone.norm.{p}"),
)


def _format(method: str, neck: str, config: Callable[[State], Config]) -> CheckpointFormat:
    return CheckpointFormat(
        name=f"{method} ViT (Westlake-AI/openmixup)",
        container="state_dict",
        marks=(
            r"backbone\.mask_token",
            r"backbone\.layers\.0\.attn\.relative_position_bias_table",
            re.escape(neck) + r"\.weight",
        ),
        rules=(
            *VIT,
            Rule(f"{neck}.weight", "decoder.weight", as_linear, as_convolution),
            Rule(f"{neck}.bias", "decoder.bias"),
        ),
        ignored=(r".*\.relative_position_index",),
        config=config,
        derived=derived_tables,
    )


FORMATS = (_format("A2MIM", "neck.decoder_pred.0", a2mim_config), _format("SimMIM", "neck.decoder.0", baseline_config))
