"""Names of Westlake-AI/openmixup's ViT checkpoints, of A2MIM and of its SimMIM baseline. May import L3 and below."""

from __future__ import annotations

from torch import Tensor

from ..config import Config
from ..decoders import LinearHead
from ..losses import FocalFrequency, MaskedL1, WithFourier
from ..mim import MIM
from .format import Format, Rule
from .shapes import State, shape
from .simmim import add_axis, as_convolution, as_linear, beit, config, drop_axis


def vit_config(state: State) -> Config:
    """A2MIM on a ViT of these weights. The SimMIM baseline's are the same: only its configuration tells them apart.

    Raises:
        ValueError: shapes do not tell.
    """
    table = shape(state, "encoder.backbone.blocks.0.attn.relative_position_bias_table")
    own = {"absolute_pos": True, "shared_bias": False, "init": "a2mim", "fill": "mean", "token": "add"}
    loss = WithFourier(spatial=MaskedL1(), fourier=FocalFrequency(batch=128), weight=0.1)
    return config(*beit(state, table, **own), decoder=LinearHead(init="trunc_normal"), loss=loss)


def derived(mim: MIM) -> dict[str, Tensor]:
    """The table that every block's official attention saves."""
    buffers = mim.encoder.backbone.blocks.named_buffers(prefix="backbone.layers")
    return {name: t for name, t in buffers if name.endswith(".relative_position_index")}


FORMATS = (
    Format(
        name="A2MIM ViT, or SimMIM's (Westlake-AI/openmixup)",
        container="state_dict",
        marks=(r"backbone\.mask_token", r"backbone\.layers\.0\.attn\.relative_position_bias_table"),
        rules=(
            Rule("backbone.mask_token", "encoder.token.mask_token", drop_axis, add_axis),
            Rule("backbone.mask_gamma", "encoder.token.mask_gamma"),
            Rule("backbone.cls_token", "encoder.backbone.cls_token"),
            Rule("backbone.pos_embed", "encoder.backbone.pos_embed"),
            Rule("backbone.patch_embed.projection.{p}", "encoder.backbone.patch_embed.proj.{p}"),
            *(
                Rule(f"backbone.layers.{{i}}.{official}", f"encoder.backbone.blocks.{{i}}.{ours}")
                for official, ours in (
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
            ),
            Rule("backbone.ln1.{p}", "encoder.backbone.norm.{p}"),
            Rule("neck.decoder_pred.0.weight", "decoder.weight", as_linear, as_convolution),
            Rule("neck.decoder_pred.0.bias", "decoder.bias"),
        ),
        ignored=(r".*\.relative_position_index",),
        config=vit_config,
        derived=derived,
    ),
)
