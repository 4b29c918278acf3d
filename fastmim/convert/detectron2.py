"""Backbones of Detectron2: ResNet, ViT (of ViTDet) and Swin. May import L3 and below.

Names and layouts are those of detectron2/modeling/backbone/{resnet,vit,swin}.py. A backbone's names stand alone,
without the "backbone.bottom_up." or "backbone.net." of a detector: with "matching_heuristics" Detectron2 finds them at
the end of its own.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..model.encoders.convnet import ResNetEncoder
from ..model.encoders.swin import SwinEncoder
from ..model.encoders.vit import ViTEncoder
from ..parts import Encoder, ImageSpec
from . import simmim
from .backbones import INDEX, Backbone, check_not_dilated, no_backbone, resnet_depth, swin_notes, swin_sizes
from .format import Rule

STATISTICS = ("weight", "bias", "running_mean", "running_var")
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


def backbone(spec: Encoder, encoder: nn.Module, image: ImageSpec) -> Backbone:
    """The backbone that takes an encoder's weights.

    Raises:
        ValueError: there is none.
    """
    check_not_dilated(encoder)
    if isinstance(encoder, SwinEncoder):
        own = swin_sizes(encoder)
        args = {"in_chans": image.channels, "window_size": own.pop("window")} | own
        widths = tuple(own["embed_dim"] << i for i in range(len(own["depths"])))
        notes = ["The norms of the first three maps, which pre-training has not, begin at one.", *swin_notes(encoder)]
        return Backbone("SwinTransformer", args, SWIN, widths, notes=notes)
    if isinstance(encoder, ResNetEncoder):
        depth, net = resnet_depth(encoder, spec.name), encoder.backbone
        widths = tuple(info["num_chs"] for info in net.feature_info[1:])
        published = tuple((64 if depth < 50 else 256) << i for i in range(4))
        if widths != published:
            raise ValueError(f"its ResNet of {depth} layers is {published} wide, this one {widths}")
        args = {"depth": depth, "in_channels": image.channels}
        return Backbone("ResNet", args, RESNET, widths, (r".*\.num_batches_tracked",))
    if isinstance(encoder, ViTEncoder):
        return _vit(encoder, image)
    raise no_backbone("Detectron2", encoder)


def _vit(encoder: ViTEncoder, image: ImageSpec) -> Backbone:
    if encoder.grid[0] != encoder.grid[1]:
        raise ValueError(f"its ViT takes positions of a square image, and this one was trained on {image.size}")
    first = encoder.blocks[0]
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
    notes = ["The class token and the last norm have no place in it; positions are resized to the images."]
    dropped = (r"encoder\.cls_token", r"encoder\.norm\..*")
    return Backbone("ViT", args, VIT, (encoder.embed_dim,), dropped, notes)
