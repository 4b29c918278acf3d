"""Encoders that are timm models: their base class, and the creation of a timm model by its name."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ...config.fields import brief, check_bounds, check_types
from ...parts import Encoder
from .checks import check_heads


@dataclass(frozen=True)
class TimmEncoder(Encoder):
    """An encoder whose network is a timm model."""

    name: str
    """timm model name."""

    @abstractmethod
    def timm_args(self, size: tuple[int, int]) -> dict[str, Any]:
        """Returns the arguments of `timm.create_model` that differ from the named model's defaults.

        Args:
            size: height and width of the images, pixels.
        """


@dataclass(frozen=True)
class TimmTransformer(TimmEncoder):
    """A plain vision transformer of timm, and the mask token in its sequence."""

    patch_size: int | None = None
    """Patch side in pixels; None = the model's own."""
    depth: int | None = None
    """Transformer blocks; None = the model's own."""
    embed_dim: int | None = None
    """Width; None = the model's own."""
    num_heads: int | None = None
    """Attention heads; None = the model's own."""
    fill: Literal["none", "mean"] = "none"
    """Content of hidden pixels: "none" = unchanged, "mean" = the mean colour of the image."""
    token: Literal["replace", "add", "gated"] = "replace"
    """Way in which the learned token stands for hidden tokens, see `MaskToken`."""
    token_layer: int = 0
    """Place of the learned token: 0 = before class token and positions, k = before block k, from 1."""

    def __post_init__(self):
        check_types(self, "encoder.")
        check_bounds(self, "encoder.", "patch_size", "depth", "embed_dim", "num_heads", at_least=1)
        check_bounds(self, "encoder.", "token_layer", at_least=0)
        check_heads(self.embed_dim, self.num_heads)

    def sizes(self) -> dict[str, Any]:
        """Returns the sizes that differ from the named model's, as `timm.create_model` takes them."""
        return overrides(
            patch_size=self.patch_size, depth=self.depth, embed_dim=self.embed_dim, num_heads=self.num_heads
        )


def overrides(**fields: Any) -> dict[str, Any]:
    """Returns the keyword arguments that are not None, i.e. those that override timm's defaults."""
    return {name: value for name, value in fields.items() if value is not None}


def create(name: str, kind: type[nn.Module], **args: Any) -> Any:
    """Creates the named timm model without a classifier.

    Args:
        name: timm model name.
        kind: timm's class of the family.
        **args: arguments of `timm.create_model`.

    Returns:
        The model. Its type is Any, because timm declares no types of its submodules.

    Raises:
        ValueError: timm has no model of this name in the family, or the sizes do not fit each other.
    """
    import timm

    known = timm.list_models(module=kind.__module__.rpartition(".")[2])
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name[:100], known, n=3, cutoff=0))
        raise ValueError(f"encoder.name: expected a {kind.__name__} of timm, got {brief(name)}; near it: {near}")
    return create_known(name, **args)


def create_known(name: str, **args: Any) -> Any:
    """Creates a timm model whose name exists, without a classifier; see `create`.

    Raises:
        ValueError: the sizes do not fit each other.
    """
    import timm

    try:
        return timm.create_model(name, num_classes=0, **args)
    except (AssertionError, IndexError) as error:
        # timm raises these if heads do not divide a width, or if a stage has no number.
        sizes = ", ".join(f"{field}={value}" for field, value in args.items())
        raise ValueError(f"encoder: timm cannot make {name} with {sizes}: {error}") from error


def take_module(module: nn.Module, name: str) -> nn.Module:
    """Replaces a submodule by the identity and returns the submodule."""
    part = module.get_submodule(name)
    module.set_submodule(name, nn.Identity())
    return part


def store_buffers_as_int8(model: nn.Module) -> None:
    """Converts the floating-point buffers of a model to int8: zero biases, and shift masks of 0 and -100.

    A sum of an integer and a float has the float's dtype. So the sums follow the weights if these are cast to bf16,
    although buffers are not cast.
    """
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(torch.int8))
