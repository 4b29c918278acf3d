"""A trained encoder as a backbone of another library: its class, arguments, names. May import L3 and below."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..model.encoders.convnet import STAGES, ConvEncoder, ResNetEncoder
from ..model.encoders.swin import SwinEncoder
from .a2mim import RESNETS
from .format import Format, Rule

INDEX = "relative_position_index"
"""Buffers that timm derives and does not save, and the other libraries save."""
DEPTH = {name: int(name.removeprefix("resnet")) for name in RESNETS.values()} | {"resnet34": 34}
"""Layers of the ResNets that are published, by timm's name."""
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of each stage of the ResNets that the other libraries have."""


@dataclass(frozen=True)
class Backbone:
    """
    Attributes:
        kind: the library's class. args: of its constructor.
        rules: names; ours begin with "encoder.", as in a `MIM`.
        widths: channels of the maps that it gives, finest first.
        dropped: our names (regular expressions) that have no place there.
        notes: what a person should know, a sentence each.
    """

    kind: str
    args: dict[str, Any]
    rules: tuple[Rule, ...]
    widths: tuple[int, ...]
    dropped: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def state(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The library's state dict.

        Raises:
            ValueError: a tensor has no place in it.
        """
        state, unmatched = self._format().to_official(dict(ours))
        if lost := [n for n in unmatched if not any(re.fullmatch(pattern, n) for pattern in self.dropped)]:
            raise ValueError(f"its {self.kind} has no place for {len(lost)} tensors, such as {lost[0]} (by our name)")
        return state

    def inverse(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors from the library's."""
        return self._format().to_ours(dict(state))[0]

    def _format(self) -> Format:
        return Format(self.kind, "state_dict", (), self.rules)


def tensors(encoder: nn.Module, without: set[str]) -> dict[str, Tensor]:
    """An encoder's tensors and derived indices by name, except those whose last part is in `without`."""
    buffers = {name: buffer for name, buffer in encoder.named_buffers() if name.endswith(f".{INDEX}")}
    state = encoder.state_dict() | buffers
    return {f"encoder.{name}": tensor for name, tensor in state.items() if name.rpartition(".")[2] not in without}


def swin_sizes(encoder: SwinEncoder) -> dict[str, Any]:
    """ "embed_dim", "depths", "num_heads", "window", "patch_size", "mlp_ratio" of a Swin.

    Raises:
        ValueError: not all windows are squares of one size.
    """
    stages = encoder.backbone.layers
    windows = {tuple(block.window_size) for stage in stages for block in stage.blocks}
    first = stages[0].blocks[0]
    if len(windows) > 1 or any(rows != columns for rows, columns in windows):
        raise ValueError(
            f"its Swin has square windows of one size in all stages; these are {sorted(windows)}, as a stage of fewer "
            "tokens is one window: pre-train with a data.size that is a multiple of 8 windows"
        )
    return {
        "embed_dim": encoder.backbone.embed_dim,
        "depths": tuple(len(stage.blocks) for stage in stages),
        "num_heads": tuple(stage.blocks[0].attn.num_heads for stage in stages),
        "window": windows.pop()[0],
        "patch_size": encoder.backbone.patch_embed.patch_size[0],
        "mlp_ratio": first.mlp.fc1.out_features / first.mlp.fc1.in_features,
    }


def swin_notes(encoder: SwinEncoder) -> list[str]:
    """Says what differs from timm's Swin."""
    blocks = [block for stage in encoder.backbone.layers for block in stage.blocks[1::2]]
    if any(not any(block.shift_size) for block in blocks):
        return ["Windows are shifted in every second block, also in a map that is one window, which timm leaves."]
    return []


def resnet_depth(encoder: ResNetEncoder, name: str) -> int:
    """Layers of a ResNet that other libraries know by this number.

    Raises:
        ValueError: there is none.
    """
    depth, net = DEPTH.get(name), encoder.backbone
    depths = tuple(len(net.get_submodule(f"layer{i}")) for i in range(1, 5))
    if BLOCKS.get(depth) != depths:
        raise ValueError(
            f"its ResNets are those of {', '.join(map(str, BLOCKS))} layers, not {name} with {depths} blocks a stage"
        )
    return depth


def check_not_dilated(encoder: nn.Module) -> None:
    """
    Raises:
        ValueError: stages of a convolutional network keep their size.
    """
    if isinstance(encoder, ConvEncoder) and len(encoder.strides) < STAGES:
        raise ValueError(
            f"expected stages that each halve the map of the one before, got encoder.output_stride="
            f"{encoder.strides[-1]}: dilated networks are written for timm, the hub and ONNX only"
        )


def no_backbone(library: str, encoder: nn.Module) -> ValueError:
    """Returns the error of a library that lacks an encoder; its message names those that it has."""
    name = type(encoder).__name__.removesuffix("Encoder")
    if name in ("BEiT", "ConvNeXt"):
        return ValueError(f"{library} has no {name}")
    return ValueError(
        f"{library} has no {name} in this form; `fastmim convert RUN FILE.pth` writes a pre-training run's weights in "
        "that of the official repository"
    )
