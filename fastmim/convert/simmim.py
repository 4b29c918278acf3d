"""Names of microsoft/SimMIM's checkpoints, and of what its and A2MIM's ViT share. May import L3 and below."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..config.base import Config
from ..data.crops import RandomResizedCrop
from ..model.decoders import LinearHead
from ..model.encoders import BEiT, Swin
from ..model.losses import MaskedL1
from ..model.masking import BlockMasking
from ..model.mim import MIM
from ..model.targets import Pixels
from ..parts import Encoder
from .format import Format, Rule
from .shapes import State, count, root, shape, square


def swin_config(state: State) -> Config:
    """SimMIM on a Swin of these weights, for images that are one window in the last stage, as all published ones are.

    Raises:
        ValueError: shapes do not tell.
    """
    prefix, tables = "encoder.backbone.", []
    dim, channels, patch_size, _ = shape(state, f"{prefix}patch_embed.proj.weight", 4)
    depths = tuple(count(state, f"{prefix}layers.{i}.blocks.") for i in range(count(state, f"{prefix}layers.")))
    for i in range(len(depths)):
        tables.append(shape(state, f"{prefix}layers.{i}.blocks.0.attn.relative_position_bias_table", 2))
    window, last = ((root(tables[i][0]) + 1) // 2 for i in (0, -1))
    heads = tuple(heads for _, heads in tables)
    sizes = {"window": window, "patch_size": patch_size, "embed_dim": dim, "depths": depths, "num_heads": heads}
    encoder = Swin("swin_base_patch4_window7_224", **sizes)
    return config(encoder, (last * patch_size) << (len(depths) - 1), channels)


def vit_config(state: State) -> Config:
    """SimMIM on a ViT of these weights.

    Raises:
        ValueError: shapes do not tell.
    """
    table = shape(state, "encoder.backbone.rel_pos_bias.relative_position_bias_table", 2)
    return config(*beit(state, table, shared_bias=True))


def beit(state: State, table: list[int], **own: Any) -> tuple[BEiT, int, int]:
    """(encoder, image side, channels) of a ViT of these weights with a relative-bias table of this shape.

    Raises:
        ValueError: shapes do not tell.
    """
    prefix = "encoder.backbone."
    dim, channels, patch_size, _ = shape(state, f"{prefix}patch_embed.proj.weight", 4)
    encoder = BEiT(
        "beit_base_patch16_224",
        patch_size=patch_size,
        depth=count(state, f"{prefix}blocks."),
        embed_dim=dim,
        num_heads=table[1],
        mlp_ratio=shape(state, f"{prefix}blocks.0.mlp.fc1.weight")[0] / dim,
        **own,
    )
    return encoder, (root(table[0] - 3) + 1) // 2 * patch_size, channels


def config(encoder: Encoder, side: int, channels: int, crop_scale: float = 0.67, **parts: Any) -> Config:
    """SimMIM's configuration; `parts` take the place of its own.

    Raises:
        ValueError: channels other than 3.
    """
    crop = RandomResizedCrop(scale=(crop_scale, 1.0), interpolation="bilinear")
    method = {"masking": BlockMasking(), "decoder": LinearHead(), "target": Pixels(), "loss": MaskedL1()}
    return Config(encoder=encoder, data=square(side, channels, crop), **method | parts)


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
    buffers = dict(mim.encoder.backbone.named_buffers(prefix="encoder"))
    tables = {name: t for name, t in buffers.items() if name.endswith(".relative_position_index")}
    return tables | {name: t.float() for name, t in buffers.items() if name.endswith(".attn_mask")}


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
        config=swin_config,
        derived=derived,
    ),
    Format(
        name="SimMIM ViT (microsoft/SimMIM)",
        container="model",
        marks=(r"encoder\.mask_token", r"encoder\.rel_pos_bias\.relative_position_bias_table"),
        rules=HEAD + VIT,
        ignored=(r".*\.relative_position_index",),
        config=vit_config,
        derived=derived,
    ),
)
