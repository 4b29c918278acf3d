"""Checkpoints of microsoft/SimMIM, and the parts that its ViT shares with A2MIM's."""

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
from .checkpoint_format import CheckpointFormat, Rule
from .model_sizes import State, count_blocks, square_images, square_side, tensor_shape


def swin_config(state: State) -> Config:
    """Returns SimMIM's configuration for the weights of a Swin.

    The image size follows from the last stage, which is one window in all published models.

    Raises:
        ValueError: the shapes do not determine the sizes.
    """
    prefix, tables = "encoder.backbone.", []
    dim, channels, patch_size, _ = tensor_shape(state, f"{prefix}patch_embed.proj.weight", 4)
    depths = tuple(
        count_blocks(state, f"{prefix}layers.{i}.blocks.") for i in range(count_blocks(state, f"{prefix}layers."))
    )
    for i in range(len(depths)):
        tables.append(tensor_shape(state, f"{prefix}layers.{i}.blocks.0.attn.relative_position_bias_table", 2))
    window, last = ((square_side(tables[i][0]) + 1) // 2 for i in (0, -1))
    heads = tuple(heads for _, heads in tables)
    encoder = Swin(
        "swin_base_patch4_window7_224",
        window=window,
        patch_size=patch_size,
        embed_dim=dim,
        depths=depths,
        num_heads=heads,
    )
    return simmim_config(encoder, (last * patch_size) << (len(depths) - 1), channels)


def vit_config(state: State) -> Config:
    """Returns SimMIM's configuration for the weights of a ViT.

    Raises:
        ValueError: the shapes do not determine the sizes.
    """
    table = tensor_shape(state, "encoder.backbone.rel_pos_bias.relative_position_bias_table", 2)
    return simmim_config(*beit_sizes(state, table, shared_bias=True))


def beit_sizes(state: State, table: list[int], **fields: Any) -> tuple[BEiT, int, int]:
    """Reads the sizes of a ViT with relative-position biases.

    Args:
        state: the weights by fastmim's names.
        table: shape of a relative-bias table.
        **fields: other fields of the encoder.

    Returns:
        The encoder's config, the side of its images in pixels, and their number of channels.

    Raises:
        ValueError: the shapes do not determine the sizes.
    """
    prefix = "encoder.backbone."
    dim, channels, patch_size, _ = tensor_shape(state, f"{prefix}patch_embed.proj.weight", 4)
    encoder = BEiT(
        "beit_base_patch16_224",
        patch_size=patch_size,
        depth=count_blocks(state, f"{prefix}blocks."),
        embed_dim=dim,
        num_heads=table[1],
        mlp_ratio=tensor_shape(state, f"{prefix}blocks.0.mlp.fc1.weight")[0] / dim,
        **fields,
    )
    return encoder, (square_side(table[0] - 3) + 1) // 2 * patch_size, channels


def simmim_config(encoder: Encoder, side: int, channels: int, crop_scale: float = 0.67, **parts: Any) -> Config:
    """Returns SimMIM's configuration of an encoder.

    Args:
        encoder: config of the encoder.
        side: height and width of the images, pixels.
        channels: number of channels of the images.
        crop_scale: smallest area of a crop, as a fraction of the image.
        **parts: parts of the method that replace SimMIM's.

    Raises:
        ValueError: the number of channels is not 3.
    """
    crop = RandomResizedCrop(scale=(crop_scale, 1.0), interpolation="bilinear")
    method = {"masking": BlockMasking(), "decoder": LinearHead(), "target": Pixels(), "loss": MaskedL1()}
    return Config(encoder=encoder, data=square_images(side, channels, crop), **method | parts)


def drop_axis(token: Tensor) -> Tensor:
    """Reshapes a mask token from (1, 1, D) to (1, D)."""
    return token.squeeze(0)


def add_axis(token: Tensor) -> Tensor:
    """Reshapes a mask token from (1, D) to (1, 1, D)."""
    return token.unsqueeze(0)


def as_linear(weight: Tensor) -> Tensor:
    """Reshapes the weight of a 1x1 convolution from (P, D, 1, 1) to (P, D)."""
    return weight.flatten(1)


def as_convolution(weight: Tensor) -> Tensor:
    """Reshapes the weight of a linear layer from (P, D) to (P, D, 1, 1)."""
    return weight[..., None, None]


def derived_tables(mim: MIM) -> dict[str, Tensor]:
    """Returns the index and mask tables that the official code saves and timm derives."""
    buffers = dict(mim.encoder.get_submodule("backbone").named_buffers(prefix="encoder"))
    tables = {name: t for name, t in buffers.items() if name.endswith(".relative_position_index")}
    return tables | {name: t.float() for name, t in buffers.items() if name.endswith(".attn_mask")}


HEAD = (
    Rule("encoder.mask_token", "encoder.token.mask_token", drop_axis, add_axis),
    Rule("decoder.0.weight", "decoder.weight", as_linear, as_convolution),
    Rule("decoder.0.bias", "decoder.bias"),
)

SWIN = tuple(
    # Downsampling is the end of a stage here, and the beginning of the next stage in timm.
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
    CheckpointFormat(
        name="SimMIM Swin (microsoft/SimMIM)",
        container="model",
        marks=(r"encoder\.mask_token", r"encoder\.layers\.0\.blocks\.0\.attn\.relative_position_bias_table"),
        rules=HEAD + SWIN,
        ignored=(r".*\.relative_position_index", r".*\.attn_mask"),
        config=swin_config,
        derived=derived_tables,
    ),
    CheckpointFormat(
        name="SimMIM ViT (microsoft/SimMIM)",
        container="model",
        marks=(r"encoder\.mask_token", r"encoder\.rel_pos_bias\.relative_position_bias_table"),
        rules=HEAD + VIT,
        ignored=(r".*\.relative_position_index",),
        config=vit_config,
        derived=derived_tables,
    ),
)
