"""Backbones of OpenMMLab for MMDetection and MMSegmentation.

SwinTransformer and ResNet follow mmdet 3.3 and mmseg 1.2. VisionTransformer, BEiTViT and ConvNeXt follow mmpretrain
1.2, which both libraries can use.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..model.encoders.beit import BEiTEncoder
from ..model.encoders.convnet import ConvNeXtEncoder, ResNetEncoder
from ..model.encoders.create import TimmEncoder
from ..model.encoders.swin import SwinEncoder
from ..model.encoders.vit import ViTEncoder
from ..parts import Encoder, ImageSpec
from . import a2mim_convnet, a2mim_vit, pixmim
from .backbone import INDEX, Backbone, check_not_dilated, missing_backbone, resnet_depth, swin_notes, swin_sizes
from .checkpoint_format import Rule


def to_unfold(weight: Tensor) -> Tensor:
    """Reorders the (..., 4 C) weight of timm's patch merging into the order of nn.Unfold.

    timm orders the 4 C values by (column, row, channel), nn.Unfold by (channel, row, column).
    """
    return weight.unflatten(-1, (2, 2, -1)).movedim((-3, -2, -1), (-1, -2, -3)).flatten(-3).contiguous()


def from_unfold(weight: Tensor) -> Tensor:
    """Reorders a (..., 4 C) weight from the order of nn.Unfold to timm's; the inverse of `to_unfold`."""
    return weight.unflatten(-1, (-1, 2, 2)).movedim((-3, -2, -1), (-1, -2, -3)).flatten(-3).contiguous()


BLOCK = ("backbone.stages.{s}.blocks.{b}", "encoder.backbone.layers.{s}.blocks.{b}")
# Downsampling is the end of a stage here, and the beginning of the next stage in timm.
SWIN = tuple(
    Rule(
        f"backbone.stages.{stage}.downsample.{{rest}}",
        f"encoder.backbone.layers.{stage + 1}.downsample.{{rest}}",
        from_unfold,
        to_unfold,
    )
    for stage in range(3)
) + (
    Rule("backbone.patch_embed.projection.{p}", "encoder.backbone.patch_embed.proj.{p}"),
    Rule("backbone.patch_embed.norm.{p}", "encoder.backbone.patch_embed.norm.{p}"),
    Rule(f"{BLOCK[0]}.norm{{n}}.{{p}}", f"{BLOCK[1]}.norm{{n}}.{{p}}"),
    Rule(f"{BLOCK[0]}.attn.w_msa.{{rest}}", f"{BLOCK[1]}.attn.{{rest}}"),
    Rule(f"{BLOCK[0]}.ffn.layers.0.0.{{p}}", f"{BLOCK[1]}.mlp.fc1.{{p}}"),
    Rule(f"{BLOCK[0]}.ffn.layers.1.{{p}}", f"{BLOCK[1]}.mlp.fc2.{{p}}"),
    Rule("backbone.norm3.{p}", "encoder.backbone.norm.{p}"),
)
BEIT = (
    *a2mim_vit.VIT,
    Rule("backbone.rel_pos_bias.{p}", "encoder.backbone.rel_pos_bias.{p}"),
    Rule(f"backbone.layers.{{i}}.attn.{INDEX}", f"encoder.backbone.blocks.{{i}}.attn.{INDEX}"),
)
RESNET = tuple(
    Rule(f"backbone.{name}", f"encoder.backbone.{name}")
    for name in (
        "conv1.weight",
        "bn1.{p}",
        "layer{s}.{b}.conv{n}.weight",
        "layer{s}.{b}.bn{n}.{p}",
        "layer{s}.{b}.downsample.0.weight",
        "layer{s}.{b}.downsample.1.{p}",
    )
)
CONVNEXT = (*a2mim_convnet.CONVNEXT, Rule("backbone.norm3.{p}", "encoder.backbone.norm_pre.{p}"))


def find_backbone(spec: Encoder, encoder: nn.Module, image: ImageSpec) -> Backbone:
    """Returns the backbone of OpenMMLab that takes an encoder's weights.

    Args:
        spec: config of the encoder.
        encoder: the encoder.
        image: images that the encoder was built for.

    Raises:
        ValueError: OpenMMLab has no such backbone.
    """
    check_not_dilated(encoder)
    if isinstance(encoder, SwinEncoder):
        return _swin(encoder, image.channels)
    if isinstance(encoder, ResNetEncoder) and isinstance(spec, TimmEncoder):
        return _resnet(encoder, spec.name, image.channels)
    if isinstance(encoder, ConvNeXtEncoder):
        return _convnext(encoder, image.channels)
    if isinstance(encoder, BEiTEncoder | ViTEncoder):
        return _vit(encoder, image)
    raise missing_backbone("OpenMMLab", encoder)


def _swin(encoder: SwinEncoder, channels: int) -> Backbone:
    sizes = swin_sizes(encoder)
    args = {
        "in_channels": channels,
        "embed_dims": sizes.embed_dim,
        "patch_size": sizes.patch_size,
        "window_size": sizes.window,
        "mlp_ratio": int(sizes.mlp_ratio),
        "depths": sizes.depths,
        "num_heads": sizes.num_heads,
        "strides": (sizes.patch_size, *[2] * (len(sizes.depths) - 1)),
    }
    return Backbone("SwinTransformer", args, SWIN, sizes.widths, notes=swin_notes(encoder))


def _resnet(encoder: ResNetEncoder, name: str, channels: int) -> Backbone:
    net: Any = encoder.backbone
    depth = resnet_depth(encoder, name)
    widths = tuple(info["num_chs"] for info in net.feature_info[1:])
    base = net.layer1[0].conv1.out_channels
    if any(width != widths[0] << i for i, width in enumerate(widths)):
        raise ValueError(f"each stage of its ResNet is twice as wide as the stage before, here they are {widths} wide")
    args = {"depth": depth, "in_channels": channels, "base_channels": base, "stem_channels": net.conv1.out_channels}
    fixed = {"norm_cfg": {"type": "BN", "requires_grad": True}, "norm_eval": False, "style": "pytorch"}
    return Backbone("ResNet", args | fixed, RESNET, widths)


def _convnext(encoder: ConvNeXtEncoder, channels: int) -> Backbone:
    net: Any = encoder.backbone
    widths = tuple(info["num_chs"] for info in net.feature_info)
    block = net.stages[0].blocks[0]
    args = {
        "arch": {"depths": [len(stage.blocks) for stage in net.stages], "channels": list(widths)},
        "in_channels": channels,
        "linear_pw_conv": isinstance(block.mlp.fc1, nn.Linear),
        "gap_before_final_norm": False,
        "out_indices": [0, 1, 2, 3],
    }
    notes = ["The norms of the first three maps begin at one, because pre-training has no such norms."]
    return Backbone("mmpretrain.ConvNeXt", args, CONVNEXT, widths, (r".*\.head\.pre_logits\..*",), notes)


def _vit(encoder: BEiTEncoder | ViTEncoder, image: ImageSpec) -> Backbone:
    net: Any = encoder if isinstance(encoder, ViTEncoder) else encoder.backbone
    depth, width, first = len(net.blocks), encoder.embed_dim, net.blocks[0]
    args = {
        "arch": {
            "embed_dims": width,
            "num_layers": depth,
            "num_heads": first.attn.num_heads,
            "feedforward_channels": first.mlp.fc1.out_features,
        },
        "img_size": image.size,
        "patch_size": encoder.patch_size,
        "in_channels": image.channels,
        "out_type": "featmap",
        "out_indices": [depth - 1],
        "final_norm": not isinstance(net.norm, nn.Identity),
    }
    if isinstance(encoder, ViTEncoder):
        return Backbone("mmpretrain.VisionTransformer", args, pixmim.RULES, (width,))
    args |= {
        "use_abs_pos_emb": net.pos_embed is not None,
        "use_rel_pos_bias": net.rel_pos_bias is None,
        "use_shared_rel_pos_bias": net.rel_pos_bias is not None,
        "layer_scale_init_value": 0.0 if first.gamma_1 is None else 0.1,  # 0 = no layer scale
    }
    height, width_px = image.size
    notes = [f"Its relative-position biases fit images (or crops) of {height} x {width_px} pixels only."]
    return Backbone("mmpretrain.BEiTViT", args, BEIT, (width,), notes=notes)
