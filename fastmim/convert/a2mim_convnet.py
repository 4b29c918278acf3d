"""ResNet and ConvNeXt checkpoints of Westlake-AI/openmixup: A2MIM and SimMIM baselines."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..config.base import Config
from ..model.decoders import LinearHead
from ..model.encoders import ConvNeXt, ResNet
from ..model.losses import ComplexFocalL1, FocalFrequency, MaskedFocalL1, WithFourier
from .checkpoint_format import CheckpointFormat, Rule
from .model_sizes import State, count_blocks, tensor_shape
from .simmim import simmim_config

RESNETS: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152",
    (3, 24, 36, 3): "resnet200",
}  # fmt: skip
"""timm's names of the published ResNets, by the number of blocks of each stage.

A block of resnet18 has two convolutions.
"""
SIZE = 224
"""Image side of the published models, pixels; the weights of convolutions do not determine this size."""


def conv_config(state: State) -> Config:
    """Returns the configuration of A2MIM or SimMIM for the weights of a ResNet or ConvNeXt.

    Raises:
        ValueError: the shapes do not determine the sizes.
    """
    prefix = "encoder.backbone."
    fields: dict[str, Any] = {"token": "gated" if "encoder.token.mask_gamma" in state else "add", "fill": "mean"}
    width = tensor_shape(state, "encoder.token.mask_token")[-1]
    if f"{prefix}conv1.weight" in state:
        depths = tuple(count_blocks(state, f"{prefix}layer{i}.") for i in range(1, 5))
        name = RESNETS.get(depths)
        if name is None or (f"{prefix}layer1.0.conv3.weight" in state) != (name != "resnet18"):
            raise ValueError(f"expected the blocks of {', '.join(RESNETS.values())}, got a ResNet of {depths} blocks")
        dims = [tensor_shape(state, f"{prefix}layer{i}.0.conv1.weight")[1] for i in range(1, 5)]
        encoder = ResNet(name, token_layer=dims.index(width), **fields)
        channels = tensor_shape(state, f"{prefix}conv1.weight")[1]
        fourier = FocalFrequency() if name == "resnet50" else ComplexFocalL1()
        loss = WithFourier(MaskedFocalL1(), fourier, weight=0.5 if name == "resnet50" else 0.1, visible_weight=0.001)
    else:
        depths = tuple(count_blocks(state, f"{prefix}stages.{i}.blocks.") for i in range(4))
        dims = [tensor_shape(state, f"{prefix}stages.{i}.blocks.0.norm.weight")[0] for i in range(4)]
        encoder = ConvNeXt(depths=depths, dims=tuple(dims), token_layer=dims.index(width), **fields)
        channels, loss = tensor_shape(state, f"{prefix}stem.0.weight")[1], MaskedFocalL1()
    return simmim_config(encoder, SIZE, channels, 0.8, decoder=LinearHead(init="trunc_normal"), loss=loss)


def _flat(x: Tensor) -> Tensor:
    """Reshapes (..., 1, 1) to (...)."""
    return x.flatten(-3)


def _square(x: Tensor) -> Tensor:
    return x[..., None, None]


TOKEN = (
    Rule("backbone.mask_token", "encoder.token.mask_token", _flat, _square),
    Rule("backbone.mask_gamma", "encoder.token.mask_gamma", lambda x: x.flatten(), lambda x: x.view(1, -1, 1, 1)),
)
RESNET = (Rule("backbone.{rest}", "encoder.backbone.{rest}"),)
BLOCK = ("backbone.stages.{s}.{b}", "encoder.backbone.stages.{s}.blocks.{b}")
CONVNEXT = (
    Rule("backbone.downsample_layers.0.{i}.{p}", "encoder.backbone.stem.{i}.{p}"),
    Rule("backbone.downsample_layers.{s}.{i}.{p}", "encoder.backbone.stages.{s}.downsample.{i}.{p}"),
    Rule(f"{BLOCK[0]}.depthwise_conv.{{p}}", f"{BLOCK[1]}.conv_dw.{{p}}"),
    Rule(f"{BLOCK[0]}.norm.{{p}}", f"{BLOCK[1]}.norm.{{p}}"),
    Rule(f"{BLOCK[0]}.pointwise_conv1.{{p}}", f"{BLOCK[1]}.mlp.fc1.{{p}}"),
    Rule(f"{BLOCK[0]}.pointwise_conv2.{{p}}", f"{BLOCK[1]}.mlp.fc2.{{p}}"),
    Rule(f"{BLOCK[0]}.gamma", f"{BLOCK[1]}.gamma"),
    Rule("backbone.norm3.{p}", "encoder.backbone.head.norm.{p}"),
)
MARKS = {"ResNet": r"backbone\.layer1\.0\.conv1\.weight", "ConvNeXt": r"backbone\.downsample_layers\.0\.0\.weight"}


def _format(method: str, network: str) -> CheckpointFormat:
    neck = {"A2MIM": "neck.decoder_pred.0", "SimMIM": "neck.decoder.0"}[method]
    head = (Rule(f"{neck}.weight", "decoder.weight", _flat, _square), Rule(f"{neck}.bias", "decoder.bias"))
    return CheckpointFormat(
        name=f"{method} {network} (Westlake-AI/openmixup)",
        container="state_dict",
        marks=(MARKS[network], neck.replace(".", r"\.") + r"\.weight"),
        rules=TOKEN + head + {"ResNet": RESNET, "ConvNeXt": CONVNEXT}[network],
        config=conv_config,
    )


FORMATS = tuple(_format(method, network) for method in ("A2MIM", "SimMIM") for network in ("ResNet", "ConvNeXt"))
