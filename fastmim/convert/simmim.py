"""Names of microsoft/SimMIM's checkpoints, and of what its and A2MIM's ViT share. May import L3 and below."""

from __future__ import annotations

from torch import Tensor

from ..mim import MIM
from . import sizes
from .format import Format, Rule


def drop_axis(token: Tensor) -> Tensor:
    """(1, 1, D) to (1, D)."""
    return token.squeeze(0)


def add_axis(token: Tensor) -> Tensor:
    """(1, D) to (1, 1, D)."""
    return token.unsqueeze(0)


def as_linear(weight: Tensor) -> Tensor:
    """(P, D, 1, 1), of a 1x1 convolution, to (P, D)."""
    return weight.flatten(1)


def as_convolution(weight: Tensor) -> Tensor:
    """(P, D) to (P, D, 1, 1)."""
    return weight[..., None, None]


def derived(mim: MIM) -> dict[str, Tensor]:
    """The tables that the official code saves too; timm's are the same, but not saved."""
    buffers = mim.encoder.backbone.named_buffers(prefix="encoder")
    return {name: t for name, t in buffers if name.endswith((".relative_position_index", ".attn_mask"))}


HEAD = (
    Rule("encoder.mask_token", "encoder.token.mask_token", drop_axis, add_axis),
    Rule("decoder.0.weight", "decoder.weight", as_linear, as_convolution),
    Rule("decoder.0.bias", "decoder.bias"),
)

SWIN = tuple(
    # The official downsampling ends a stage; timm's begins the next.
    Rule(f"encoder.layers.{stage}.downsample.{{rest}}", f"encoder.backbone.layers.{stage + 1}.downsample.{{rest}}")
    for stage in range(3)
) + tuple(
    Rule(f"encoder.{name}", f"encoder.backbone.{name}")
    for name in (
        "patch_embed.{rest}",
        "layers.{s}.blocks.{b}.norm1.{p}",
        "layers.{s}.blocks.{b}.attn.relative_position_bias_table",
        "layers.{s}.blocks.{b}.attn.qkv.{p}",
        "layers.{s}.blocks.{b}.attn.proj.{p}",
        "layers.{s}.blocks.{b}.norm2.{p}",
        "layers.{s}.blocks.{b}.mlp.{rest}",
        "norm.{p}",
    )
)

VIT = tuple(
    Rule(f"encoder.{name}", f"encoder.backbone.{name}")
    for name in (
        "cls_token",
        "patch_embed.{rest}",
        "rel_pos_bias.relative_position_bias_table",
        "blocks.{i}.{gamma}",
        "blocks.{i}.norm1.{p}",
        "blocks.{i}.attn.q_bias",
        "blocks.{i}.attn.v_bias",
        "blocks.{i}.attn.qkv.weight",
        "blocks.{i}.attn.proj.{p}",
        "blocks.{i}.norm2.{p}",
        "blocks.{i}.mlp.{rest}",
        "norm.{p}",
    )
)

FORMATS = (
    Format(
        name="SimMIM Swin (microsoft/SimMIM)",
        container="model",
        marks=(r"encoder\.mask_token", r"encoder\.layers\.0\.blocks\.0\.attn\.relative_position_bias_table"),
        rules=HEAD + SWIN,
        ignored=(r".*\.relative_position_index", r".*\.attn_mask"),
        config=sizes.simmim_swin,
        derived=derived,
    ),
    Format(
        name="SimMIM ViT (microsoft/SimMIM)",
        container="model",
        marks=(r"encoder\.mask_token", r"encoder\.rel_pos_bias\.relative_position_bias_table"),
        rules=HEAD + VIT,
        ignored=(r".*\.relative_position_index",),
        config=sizes.simmim_vit,
        derived=derived,
    ),
)
