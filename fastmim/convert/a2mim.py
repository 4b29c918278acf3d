"""openmixup's checkpoints of A2MIM, and of its SimMIM baselines, on ResNet and ConvNeXt. May import L3 and below."""

from __future__ import annotations

from torch import Tensor

from .format import Format, Rule


def _flat(x: Tensor) -> Tensor:
    """(..., 1, 1) to (...)."""
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


def _format(method: str, network: str) -> Format:
    neck = {"A2MIM": "neck.decoder_pred.0", "SimMIM": "neck.decoder.0"}[method]
    head = (Rule(f"{neck}.weight", "decoder.weight", _flat, _square), Rule(f"{neck}.bias", "decoder.bias"))
    return Format(
        name=f"{method}, {network} (Westlake-AI/openmixup)",
        container="state_dict",
        marks=(MARKS[network], neck.replace(".", r"\.") + r"\.weight"),
        rules=TOKEN + head + {"ResNet": RESNET, "ConvNeXt": CONVNEXT}[network],
    )


FORMATS = tuple(_format(method, network) for method in ("A2MIM", "SimMIM") for network in ("ResNet", "ConvNeXt"))
