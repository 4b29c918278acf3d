"""Outline of the model that a stored config describes: its tensors without memory for them.

A stranger's config may claim any size. So its sizes are compared with the weights in the same folder before the model
is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config.base import Config, Experiment
from ..config.json_form import to_json
from ..data.decode import MODES
from ..host.terminal import shown
from ..model.build import build
from ..model.masking import WHOLE_IMAGES
from ..run import checkpoint

LARGEST_SIDE = 4096
"""Largest side of an image in pixels, which bounds the memory of models for images of any size."""
MOST_BLOCKS = 1_000
"""Most blocks of an encoder or decoder. The deepest published models have a few hundred."""
SPARE = 2**28
"""Bytes that computed tables may take in addition to twice the weights.

The tables are those of windows and of relative positions.
"""
_LARGEST = 1 << 16  # largest number in a model's config, unless a tensor has a longer side
_SMALLEST = 1e-6  # smallest standard deviation
_BLOCK = 4  # fewest tensors of a block, in every architecture
_ADDED = 16  # blocks of a decoder that may be missing in a file
_NO_MODEL = ("data", "optim", "train", "run", "augment", "ema", "calibrate")
"""Fields of a config that do not describe the model."""
# Exceptions of builders on sizes that no model has.
_ABSURD = (RuntimeError, TypeError, ArithmeticError, AttributeError, LookupError, AssertionError, MemoryError)


def tensors_with_values(weights: Mapping[str, Tensor]) -> int:
    """Returns the number of tensors that are not empty. Empty tensors cost a forged file nothing."""
    return sum(tensor.numel() > 0 for tensor in weights.values())


def check_fits(config: Experiment, state: checkpoint.State) -> None:
    """Compares a config with the weights beside it, without memory for the model.

    In runs other than pre-training, only the encoder is compared here. The task that builds the module compares the
    rest.

    Raises:
        ValueError: the config describes another model, or a model that is too large for these weights.
    """
    weights = state["model"]
    for name, average in state.get("ema", {}).items():
        if name not in weights or weights[name].shape != average.shape:
            raise ValueError(f"optimizer.safetensors: ema.{shown(name)} has no counterpart in model.safetensors")
    expected = outline(config, weights)
    both = [name for name in expected if name in weights]
    for name in (*expected, *weights) if isinstance(config, Config) else both:
        ours, found = expected.get(name), weights.get(name)
        if found is None or ours is None:
            raise ValueError(f"model.safetensors: {shown(name)} {'is missing' if found is None else 'has no place'}")
        if found.shape != ours.shape or found.is_floating_point() != ours.is_floating_point():
            raise ValueError(f"model.safetensors: {name}: expected {_kind(ours)} by the config, found {_kind(found)}")


def outline(config: Experiment, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of the model of a stored config, without memory for them.

    Args:
        config: a run's config. For runs other than pre-training, only the encoder's tensors are returned.
        weights: the tensors beside the config, which bound the model's size.

    Raises:
        ValueError: no such model can be built, or the model is far larger than the weights.
    """
    check_sizes(config, weights)
    try:
        with torch.device("meta"):
            model = build(config) if isinstance(config, Config) else _encoder(config)
    except _ABSURD as error:
        raise ValueError("the config's sizes do not make a model") from error
    given = sum(tensor.nbytes for tensor in weights.values())
    needed = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    if needed > 4 * given + SPARE:
        raise ValueError(
            f"the config describes a model of {needed >> 20} MiB, the weights beside it have only {given >> 20} MiB"
        )
    return model.state_dict()


def _encoder(config: Experiment) -> nn.Module:
    """Returns the encoder of a config inside a module that calls it `encoder`, as every model does."""
    encoder = config.encoder.build(config.data.image, WHOLE_IMAGES)
    return nn.ModuleDict({"encoder": encoder})


def check_sizes(config: Experiment, weights: Mapping[str, Tensor]) -> None:
    """Checks that no number in a config is too large for a model of these weights.

    Raises:
        ValueError: a number is too large or too small; the message names the field.
    """
    data = config.data
    if max(data.size) > LARGEST_SIDE:
        raise ValueError(f"data.size: expected sides of at most {LARGEST_SIDE} pixels, got {data.size}")
    if len(data.mean) not in MODES:
        raise ValueError(f"data.mean: expected {' or '.join(map(str, MODES))} channels, got {len(data.mean)}")
    for name, numbers in (("mean", data.mean), ("std", data.std)):
        if not all(abs(number) <= _LARGEST for number in numbers):
            raise ValueError(f"data.{name}: expected numbers on the 0..1 scale")
    if min(data.std) < _SMALLEST:
        raise ValueError(f"data.std: expected at least {_SMALLEST}, got {min(data.std)}")
    if max(data.workers, data.prefetch) > LARGEST_SIDE:
        raise ValueError(f"data.workers and data.prefetch: expected at most {LARGEST_SIDE}")
    largest = max((_LARGEST, *(side for tensor in weights.values() for side in tensor.shape)))
    blocks = 0
    for name, number in _numbers({k: v for k, v in to_json(config).items() if k not in _NO_MODEL}):
        if abs(number) > largest:
            found = str(number)[:20]
            raise ValueError(f"{name}: expected at most {largest}, the longest side of a tensor, got {found}")
        blocks += number if name.rpartition(".")[2] in ("depth", "depths") else 0
    tensors = tensors_with_values(weights)
    if blocks > (most := min(tensors // _BLOCK + _ADDED, MOST_BLOCKS)):
        raise ValueError(f"depth: expected at most {most} blocks in {tensors} tensors with values, got {blocks}")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yields every number in a JSON value, with the name of its field."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, name)
    elif isinstance(value, int | float):
        yield name, value


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
