"""Building a timm model by its name. May import timm, L1 and L0."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import nn


def create(name: str, kind: type[nn.Module], **args: Any) -> nn.Module:
    """The named timm model without a classifier.

    Raises:
        ValueError: timm has no model of this name in the family of `kind`.
    """
    known = timm.list_models(module=kind.__module__.rpartition(".")[2])
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0))
        raise ValueError(f"encoder.name: expected a {kind.__name__} of timm, got {name!r}; near it: {near}")
    return timm.create_model(name, num_classes=0, **args)


def check_size(size: tuple[int, int], unit: int, name: str) -> None:
    """
    Raises:
        ValueError: `size` is not a multiple of `unit` pixels.
    """
    if size[0] % unit or size[1] % unit:
        near = tuple(max(unit, round(side / unit) * unit) for side in size)
        raise ValueError(f"data.size={size} must be a multiple of {unit} for {name}; the nearest is {near}")


def integer_buffers(model: nn.Module) -> None:
    """Makes int8 of a model's buffers, which hold whole numbers only: zero biases, shift masks of 0 and -100.

    In a sum an integer takes the other's type, whatever that is: weights may be cast to bf16, buffers are not.
    """
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(torch.int8))
