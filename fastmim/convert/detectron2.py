"""Backbones of Detectron2: ResNet, the ViT of ViTDet, and Swin.

Names and layouts follow detectron2/modeling/backbone/{resnet,vit,swin}.py. The names lack the prefix of a detector,
such as "backbone.bottom_up." or "backbone.net.". With "matching_heuristics", Detectron2 compares the ends of names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..model.encoders.convnet import ResNetEncoder
from ..model.encoders.create import TimmEncoder
from ..model.encoders.swin import SwinEncoder
from ..model.encoders.vit import ViTEncoder
from ..parts import Encoder, ImageSpec
from . import simmim
from .backbone import INDEX, Backbone, check_not_dilated, missing_backbone, resnet_depth, swin_notes, swin_sizes
from .checkpoint_format import Rule

STATISTICS = ("weight", "bias", "running_mean", "running_var")
"""Tensors of a frozen batch norm."""
RESNET = (
    Rule("stem.conv1.weight", "encoder.backbone.conv1.weight"),
    *(Rule(f"stem.conv1.norm.{p}", f"encoder.backbone.bn1.{p}") for p in STATISTICS),
    *(
        Rule(f"res{s + 1}.{{b}}.{official}", f"encoder.backbone.layer{s}.{{b}}.{ours}")
        for s in range(1, 5)
        for official, ours in (
            ("conv{n}.weight", "conv{n}.weight"),
            *((f"conv{{n}}.norm.{p}", f"bn{{n}}.{p}") for p in STATISTICS),
            ("shortcut.weight", "downsample.0.weight"),
            *((f"shortcut.norm.{p}", f"downsample.1.{p}") for p in STATISTICS),
        )
    ),
)
SWIN = (
    *(replace(rule, official=rule.official.removeprefix("encoder.")) for rule in simmim.SWIN[:-1]),
    Rule(f"layers.{{s}}.blocks.{{b}}.attn.{INDEX}", f"encoder.backbone.layers.{{s}}.blocks.{{b}}.attn.{INDEX}"),
    Rule("norm3.{p}", "encoder.backbone.norm.{p}"),
)
VIT = tuple(
    Rule(name, f"encoder.{name}")
    for name in (
        "pos_embed",
        "patch_embed.proj.{p}",
        "blocks.{i}.norm1.{p}",
        "blocks.{i}.attn.qkv.{p}",
        "blocks.{i}.attn.proj.{p}",
        "blocks.{i}.norm2.{p}",
        "blocks.{i}.mlp.fc1.{p}",
        "blocks.{i}.mlp.fc2.{p}",
    )
)


def find_backbone(spec: Encoder, encoder: nn.Module, image: ImageSpec) -> Backbone:
    """Returns the backbone of Detectron2 that takes an encoder's weights.

    Args:
        spec: config of the encoder.
        encoder: the encoder.
        image: images that the encoder was built for.

    Raises:
        ValueError: Detectron2 has no such backbone.
    """
    check_not_dilated(encoder)
    if isinstance(encoder, SwinEncoder):
        return _swin(encoder, image)
    if isinstance(encoder, ResNetEncoder) and isinstance(spec, TimmEncoder):
        return _resnet(encoder, spec.name, image)
    if isinstance(encoder, ViTEncoder):
        return _vit(encoder, image)
    raise missing_backbone("Detectron2", encoder)


def _swin(encoder: SwinEncoder, image: ImageSpec) -> Backbone:
    sizes = swin_sizes(encoder)
    args = {
        "in_chans": image.channels,
        "window_size": sizes.window,
        "embed_dim": sizes.embed_dim,
        "depths": sizes.depths,
        "num_heads": sizes.num_heads,
        "patch_size": sizes.patch_size,
        "mlp_ratio": sizes.mlp_ratio,
    }
    return Backbone("SwinTransformer", args, SWIN, sizes.widths, notes=swin_notes(encoder))


def _resnet(encoder: ResNetEncoder, name: str, image: ImageSpec) -> Backbone:
    depth = resnet_depth(encoder, name)
    net: Any = encoder.backbone
    widths = tuple(info["num_chs"] for info in net.feature_info[1:])
    published = tuple((64 if depth < 50 else 256) << i for i in range(4))
    if widths != published:
        raise ValueError(f"its ResNet of {depth} layers has stages of {published} channels, this encoder {widths}")
    args = {"depth": depth, "in_channels": image.channels}
    return Backbone("ResNet", args, RESNET, widths, (r".*\.num_batches_tracked",))


def _vit(encoder: ViTEncoder, image: ImageSpec) -> Backbone:
    if encoder.grid[0] != encoder.grid[1]:
        raise ValueError(f"its ViT takes positions of a square image, this encoder was trained on {image.size}")
    first: Any = encoder.blocks[0]
    args = {
        "img_size": 1024,
        "patch_size": encoder.patch_size,
        "in_chans": image.channels,
        "embed_dim": encoder.embed_dim,
        "depth": len(encoder.blocks),
        "num_heads": first.attn.num_heads,
        "mlp_ratio": first.mlp.fc1.out_features / first.mlp.fc1.in_features,
        "pretrain_img_size": image.size[0],
        "pretrain_use_cls_token": True,
    }
    notes = ["The class token and the last norm have no place in ViTDet. Its code resizes the positions to the images."]
    dropped = (r"encoder\.cls_token", r"encoder\.norm\..*")
    return Backbone("ViT", args, VIT, (encoder.embed_dim,), dropped, notes)
