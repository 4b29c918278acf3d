"""timm's counterpart of an encoder: its arguments, classifier, tokens and parameter names.

The table `FAMILIES` has an entry for each encoder class that timm knows. Other encoders are exported in fastmim's own
format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from ..model.encoders import BEiT, ConvNeXt, ResNet, Swin, ViT
from ..model.encoders.create import TimmEncoder
from ..parts import Encoder
from .trained_encoder import TrainedEncoder, unused

Pool = Literal["mean", "cls"]
Norm = Literal["before", "after", "new"]


class TimmHead(NamedTuple):
    """timm's form of a classification head."""

    args: dict[str, Any]
    """Arguments of `timm.create_model` that select the pooling, except the number of classes."""
    names: dict[str, str]
    """timm's names of the linear layer "fc", the norm "pool.norm", and the parts that timm's head renames."""


class Family(NamedTuple):
    """Functions that describe timm's counterpart of one encoder class."""

    classifier: Callable[[Pool, Norm], TimmHead]
    """Returns timm's form of a head, or raises ValueError if timm has no such head."""
    tokens: Callable[[Any, Tensor], Tensor]
    """Returns (B, N, D) tokens of timm's model for (B, C, H, W) images, as `EncoderModule.features` does."""


def vit_classifier(pool: Pool, norm: Norm) -> TimmHead:
    """Returns the head of timm's ViT."""
    # A norm of one token gives the same result before and after the pooling.
    after = pool == "mean" and norm != "before"
    args = {"global_pool": "avg" if pool == "mean" else "token", "fc_norm": after}
    return TimmHead(args, {"fc": "head", "pool.norm": "fc_norm" if after else "norm"})


def beit_classifier(pool: Pool, norm: Norm) -> TimmHead:
    """Returns the head of timm's BEiT."""
    args, names = vit_classifier(pool, norm)
    after = args.pop("fc_norm")
    if pool == "mean" and not after:
        args["use_fc_norm"] = False  # early versions of timm lack this argument, so it is passed only if needed
    return TimmHead(args, names)


def swin_classifier(pool: Pool, norm: Norm) -> TimmHead:
    """Returns the head of timm's Swin."""
    if norm != "before":
        raise ValueError(f"timm's Swin has its last norm before the pooling, not after it (head.norm={norm})")
    return TimmHead({"global_pool": "avg"}, {"fc": "head.fc"})


def resnet_classifier(pool: Pool, norm: Norm) -> TimmHead:
    """Returns the head of timm's ResNet."""
    if norm != "before":
        raise ValueError(f"timm's ResNet has no norm after its pooling (head.norm={norm})")
    return TimmHead({"global_pool": "avg"}, {"fc": "fc"})


def convnext_classifier(pool: Pool, norm: Norm) -> TimmHead:
    """Returns the head of timm's ConvNeXt."""
    before = norm == "before"
    names = {"fc": "head.fc", "pool.norm": "head.norm"}
    if before:
        names["head.norm"] = "norm_pre"
    return TimmHead({"global_pool": "avg", "head_norm_first": before, "head_hidden_size": None}, names)


def sequence(model: Any, images: Tensor) -> Tensor:
    """Returns the tokens of a model whose `forward_features` returns (B, N, D)."""
    return model.forward_features(images)


def channels_last(model: Any, images: Tensor) -> Tensor:
    """Returns the tokens of a model whose `forward_features` returns (B, H, W, D)."""
    return model.forward_features(images).flatten(1, 2)


def channels_first(model: Any, images: Tensor) -> Tensor:
    """Returns the tokens of a model whose `forward_features` returns (B, D, H, W)."""
    return model.forward_features(images).flatten(2).transpose(1, 2)


def convnext_tokens(model: Any, images: Tensor) -> Tensor:
    """Returns the normalised tokens of timm's ConvNeXt, whose last norm lies in the head of most models."""
    x = model.forward_features(images)
    if hasattr(model.head, "norm"):
        x = model.head.norm(x)
    return x.flatten(2).transpose(1, 2)


FAMILIES: dict[type[TimmEncoder], Family] = {
    ViT: Family(vit_classifier, sequence),
    BEiT: Family(beit_classifier, sequence),
    Swin: Family(swin_classifier, channels_last),
    ResNet: Family(resnet_classifier, channels_first),
    ConvNeXt: Family(convnext_classifier, convnext_tokens),
}


def timm_family(spec: Encoder) -> Family | None:
    """Returns the entry of the encoder's class, or None if the weights are not those of a timm model."""
    return next((found for kind, found in FAMILIES.items() if isinstance(spec, kind)), None)


def timm_encoder(spec: Encoder, size: tuple[int, int]) -> dict[str, Any] | None:
    """Returns the timm model without classifier that takes the encoder's weights, or None.

    Args:
        spec: config of the encoder.
        size: height and width of the images, pixels.

    Returns:
        "architecture" = the model's name. "model_args" = the arguments of `timm.create_model` except the numbers of
        channels and classes. None if timm has no such model.
    """
    if timm_family(spec) is None or not isinstance(spec, TimmEncoder):
        return None
    return {"architecture": spec.name, "model_args": spec.timm_args(size)}


def timm_tokens(spec: Encoder, model: nn.Module, images: Tensor) -> Tensor:
    """Returns the (B, N, D) tokens of a timm model for normalised (B, C, H, W) images.

    Args:
        spec: config of the encoder whose weights the model holds.
        model: timm's model.
        images: normalised (B, C, H, W) images.

    Raises:
        ValueError: timm has no such encoder.
    """
    found = timm_family(spec)
    if found is None:
        raise ValueError(f"expected an encoder that timm has, got {type(spec).__name__}")
    return found.tokens(model, images)


def timm_model(trained: TrainedEncoder) -> dict[str, Any] | None:
    """Returns the timm model that pools and classifies as `trained.model` does, or None if timm has none.

    The result has the keys of `timm_encoder`.

    Raises:
        ValueError: timm has the encoder, but not its head.
    """
    own, found = timm_encoder(trained.spec, trained.size), timm_family(trained.spec)
    if own is None or found is None:
        return None
    args = found.classifier(trained.pooled_by.pool, trained.pooled_by.norm).args
    return own | {"model_args": own["model_args"] | args}


def tensor_names(trained: TrainedEncoder) -> dict[str, str]:
    """Returns {name of a tensor in `trained.model`: its name in an export}.

    The names in the export are timm's if timm has the model. Otherwise they are fastmim's, without "encoder.".
    """
    state, kind = trained.model.state_dict(), timm_family(trained.spec)
    if kind is None:
        return {name: name.removeprefix("encoder.") for name in state}
    prefix = "encoder.backbone." if hasattr(trained.model.encoder, "backbone") else "encoder."
    renamed = kind.classifier(trained.pooled_by.pool, trained.pooled_by.norm).names
    found = {}
    for name in state:
        if unused(name):
            continue
        new = name.removeprefix(prefix)
        part = next((part for part in renamed if new.startswith(f"{part}.")), None)
        found[name] = new if part is None else renamed[part] + new.removeprefix(part)
    return found
