"""Backbone of a detection or segmentation library: its class, arguments and names.

`detectron2.py` and `openmmlab.py` build such descriptions with the helpers here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..model.encoders.convnet import STAGES, ConvEncoder, ResNetEncoder
from ..model.encoders.swin import SwinEncoder
from .a2mim_convnet import RESNETS
from .checkpoint_format import CheckpointFormat, Rule

INDEX = "relative_position_index"
"""Name of buffers that the other libraries save, and that timm derives instead."""
DEPTH = {name: int(name.removeprefix("resnet")) for name in RESNETS.values()} | {"resnet34": 34}
"""Layers of the published ResNets, by timm's name."""
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of each stage of the ResNets that the other libraries have, by layers."""


@dataclass(frozen=True)
class Backbone:
    """Backbone of another library that takes an encoder's weights.

    Attributes:
        kind: the library's class.
        args: arguments of its constructor.
        rules: translations of names. Fastmim's names begin with "encoder.", as in a `MIM`.
        widths: channels of its maps, finest first.
        dropped: regular expressions for names of fastmim's tensors that the backbone has no place for.
        notes: sentences for the user.
    """

    kind: str
    args: dict[str, Any]
    rules: tuple[Rule, ...]
    widths: tuple[int, ...]
    dropped: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def to_library(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translates fastmim's tensors into the library's state dict.

        Raises:
            ValueError: a tensor has no place in the backbone and is not among `dropped`.
        """
        state, unmatched = self._format().to_official(dict(ours))
        if lost := [n for n in unmatched if not any(re.fullmatch(pattern, n) for pattern in self.dropped)]:
            raise ValueError(
                f"its {self.kind} has no place for {len(lost)} tensors, such as {lost[0]} (fastmim's name)"
            )
        return state

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translates the library's state dict into fastmim's tensors."""
        return self._format().to_ours(dict(state))[0]

    def _format(self) -> CheckpointFormat:
        return CheckpointFormat(self.kind, "state_dict", (), self.rules)


class SwinSizes(NamedTuple):
    """Sizes of a Swin with square windows of one size."""

    embed_dim: int
    """Channels of the first stage."""
    depths: tuple[int, ...]
    """Blocks of each stage."""
    num_heads: tuple[int, ...]
    """Heads of each stage."""
    window: int
    """Side of a window, tokens."""
    patch_size: int
    """Side of a patch, pixels."""
    mlp_ratio: float
    """Hidden width of an MLP, divided by the width of its tokens."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim << i for i in range(len(self.depths)))


def encoder_tensors(encoder: nn.Module, without: set[str]) -> dict[str, Tensor]:
    """Returns an encoder's parameters, buffers and derived index tables, by name with "encoder." in front.

    Args:
        encoder: the encoder.
        without: last parts of names to leave out.
    """
    buffers = {name: buffer for name, buffer in encoder.named_buffers() if name.endswith(f".{INDEX}")}
    state = encoder.state_dict() | buffers
    return {f"encoder.{name}": tensor for name, tensor in state.items() if name.rpartition(".")[2] not in without}


def swin_sizes(encoder: SwinEncoder) -> SwinSizes:
    """Reads the sizes of a Swin.

    Raises:
        ValueError: its windows are not squares of one size.
    """
    net: Any = encoder.backbone
    stages = net.layers
    windows = {tuple(block.window_size) for stage in stages for block in stage.blocks}
    first = stages[0].blocks[0]
    if len(windows) > 1 or any(rows != columns for rows, columns in windows):
        raise ValueError(
            f"its Swin has square windows of one size in all stages, this encoder has {sorted(windows)}, because a "
            "stage with fewer tokens is one window: pre-train with a data.size that is a multiple of 8 windows"
        )
    return SwinSizes(
        embed_dim=net.embed_dim,
        depths=tuple(len(stage.blocks) for stage in stages),
        num_heads=tuple(stage.blocks[0].attn.num_heads for stage in stages),
        window=windows.pop()[0],
        patch_size=net.patch_embed.patch_size[0],
        mlp_ratio=first.mlp.fc1.out_features / first.mlp.fc1.in_features,
    )


def swin_notes(encoder: SwinEncoder) -> list[str]:
    """Returns sentences on the differences from timm's Swin."""
    notes = ["The norms of the first three maps begin at one, because pre-training has no such norms."]
    net: Any = encoder.backbone
    blocks = [block for stage in net.layers for block in stage.blocks[1::2]]
    if any(not any(block.shift_size) for block in blocks):
        notes.append("The library shifts the windows of every second block. timm does not, if the map is one window.")
    return notes


def resnet_depth(encoder: ResNetEncoder, name: str) -> int:
    """Returns the number of layers by which other libraries name a ResNet.

    Raises:
        ValueError: the other libraries have no such ResNet.
    """
    net: Any = encoder.backbone
    depths = tuple(len(net.get_submodule(f"layer{i}")) for i in range(1, 5))
    if name not in DEPTH or BLOCKS.get(DEPTH[name]) != depths:
        raise ValueError(
            f"its ResNets have {', '.join(map(str, BLOCKS))} layers, this encoder is {name} with {depths} blocks"
        )
    return DEPTH[name]


def check_not_dilated(encoder: nn.Module) -> None:
    """Checks that every stage of a convolutional network halves the map.

    Raises:
        ValueError: the encoder is dilated.
    """
    if isinstance(encoder, ConvEncoder) and len(encoder.strides) < STAGES:
        raise ValueError(
            f"expected stages that each halve the map of the one before, got encoder.output_stride="
            f"{encoder.strides[-1]}: dilated networks are written for timm, the hub and ONNX only"
        )


def missing_backbone(library: str, encoder: nn.Module) -> ValueError:
    """Returns the error for an encoder that a library lacks."""
    name = type(encoder).__name__.removesuffix("Encoder")
    if name in ("BEiT", "ConvNeXt"):
        return ValueError(f"{library} has no {name}")
    return ValueError(
        f"{library} has no {name} in this form; `fastmim convert RUN FILE.pth` writes a pre-training run's weights for "
        "the official repository"
    )
