"""Building a timm model by its name. May import timm, L1 and L0."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...config.fields import brief
from ...parts import Encoder


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


def given(**fields: Any) -> dict[str, Any]:
    """Returns the keyword arguments that are not None, i.e. those that override timm's defaults."""
    return {name: value for name, value in fields.items() if value is not None}


def create(name: str, kind: type[nn.Module], **args: Any) -> nn.Module:
    """The named timm model without a classifier.

    Raises:
        ValueError: timm has no model of this name in the family of `kind`, or none of these sizes.
    """
    import timm

    known = timm.list_models(module=kind.__module__.rpartition(".")[2])
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name[:100], known, n=3, cutoff=0))
        raise ValueError(f"encoder.name: expected a {kind.__name__} of timm, got {brief(name)}; near it: {near}")
    return with_sizes(name, **args)


def with_sizes(name: str, **args: Any) -> nn.Module:
    """A timm model that exists, without a classifier.

    Raises:
        ValueError: its sizes do not fit each other.
    """
    import timm

    try:
        return timm.create_model(name, num_classes=0, **args)
    except (AssertionError, IndexError) as error:  # so timm says that heads do not divide a width, or a stage has none
        sizes = ", ".join(f"{field}={value}" for field, value in args.items())
        raise ValueError(f"encoder: timm cannot make {name} with {sizes}: {error}") from error


def take_module(module: nn.Module, name: str) -> nn.Module:
    """Takes a part out of a module, which from then on passes on what it is given; returns the part."""
    part = module.get_submodule(name)
    module.set_submodule(name, nn.Identity())
    return part


def integer_buffers(model: nn.Module) -> None:
    """Makes int8 of a model's buffers, which hold whole numbers only: zero biases, shift masks of 0 and -100.

    In a sum an integer takes the other's type, whatever that is: weights may be cast to bf16, buffers are not.
    """
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(torch.int8))
