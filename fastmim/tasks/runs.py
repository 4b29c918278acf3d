"""Opening a run folder that somebody else may have made: its newest usable checkpoint and the config of that.

May import L3 and below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config.base import Config, Experiment, from_json, to_json
from ..data.decode import MODES
from ..host.terminal import shown
from ..model.masking import UniformMasking
from ..run import checkpoint
from .parts import PARTS, build
from .trained import LARGEST_SIDE, MOST_BLOCKS, SPARE, with_values

_LARGEST = 1 << 16  # of a number in a model's description, unless a tensor has a longer side
_SMALLEST = 1e-6  # standard deviation
_BLOCK = 4  # tensors of a block at least, in every architecture
_NO_MODEL = ("data", "optim", "train", "run", "augment", "ema", "calibrate")
"""Fields of a config that do not describe the model."""
_ADDED = 16  # blocks of a decoder that a file need not hold
# What builders raise on sizes that no model has.
_ABSURD = (RuntimeError, TypeError, ArithmeticError, AttributeError, LookupError, AssertionError, MemoryError)

_KINDS = {
    "Config": "pre-training",
    "Finetune": "fine-tuning",
    "Probe": "probing",
    "Detect": "detection",
    "Segment": "segmentation",
}


def open_run(run: Path, field: str) -> tuple[Experiment, checkpoint.Loaded]:
    """Returns the config and the newest checkpoint of a run that is whole and holds the weights of its config.

    Args:
        field: what named the folder, for messages.

    Raises:
        ValueError: there is no checkpoint. checkpoint.FolderError: there is none of use; the message says why.
    """
    loaded = open_weights(run, field, lambda loaded: check_fits(config_of(loaded), loaded.state))
    return config_of(loaded), loaded


def open_weights(
    run: Path, field: str, check: Callable[[checkpoint.Loaded], object] = lambda loaded: None
) -> checkpoint.Loaded:
    """Returns the newest checkpoint of a run that is whole, of any config.

    Args:
        field: what named the folder, for messages.
        check: raises ValueError for a checkpoint whose content is of no use.

    Raises:
        ValueError: there is no checkpoint. checkpoint.FolderError: there is none of use; the message says why.
    """
    loaded = checkpoint.load(run / "checkpoints", check=check)
    if loaded is None:
        where = shown(run / "checkpoints")
        hint = "the folder that training printed as its run folder"
        if field == "run.init":
            hint = f"give --run.init RUN, {hint}, or start without with --run.init None"
        else:
            hint = f"give {hint}"
        raise ValueError(f"{field}: expected a run folder with checkpoints, found none in {where}; {hint}")
    return loaded


def open_pretraining(run: Path, field: str) -> tuple[Config, checkpoint.Loaded]:
    """Returns what `open_run` does, of a pre-training run.

    Raises:
        ValueError: as `open_run`, or the run is of another kind.
    """
    config, loaded = open_run(run, field)
    if not isinstance(config, Config):
        raise ValueError(
            f"{field} is a {kind(config)} run: expected a pre-training run, such as the one it started from (its "
            "run.init)"
        )
    return config, loaded


def kind(config: Experiment) -> str:
    """Returns the kind of a config's run, in words that go before "run"."""
    name = type(config).__name__
    return _KINDS.get(name, name)


def check_pretrained(loaded: checkpoint.Loaded, run: Path) -> None:
    """Refuses weights to start from that another task has trained.

    Raises:
        ValueError: the checkpoint is of a run of another kind than pre-training.
    """
    config = config_of(loaded)
    if not isinstance(config, Config):
        raise ValueError(
            f"run.init: {shown(run)} is a {kind(config)} run, and its weights do not fit here: give the pre-training "
            f"run that it started from ({shown(config.run.init or 'none')}), or an export of that run"
        )


def config_of(loaded: checkpoint.Loaded) -> Experiment:
    """Returns the config that a checkpoint holds.

    Raises:
        ValueError: it holds none; the message names the field.
    """
    stored = loaded.meta.get("config")
    if not isinstance(stored, dict):
        raise ValueError("state.json: meta.config: expected a dictionary")
    try:
        config = from_json(stored, PARTS)
    except ValueError as error:
        raise ValueError(f"state.json: meta.config: {error}") from error
    if not isinstance(config, Experiment):
        raise ValueError(f"state.json: meta.config: expected a run's config, found a {type(config).__name__}")
    return config


def check_fits(config: Experiment, state: checkpoint.State) -> None:
    """Compares a config with the weights beside it, without memory for the model.

    Of a classifier, detector or segmenter only the encoder's shapes are compared: whoever builds it compares the rest.

    Raises:
        ValueError: the config describes another model, or one that is too large to be that of these weights.
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
    """Returns the tensors of the model of a config that came with weights, without memory for them.

    Args:
        config: of a classifier, detector or segmenter, only the encoder's tensors are returned.
        weights: the tensors beside the config, which bound the model's size.

    Raises:
        ValueError: there is no such model, or one that is far larger than the weights.
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
    """The encoder of a config, under the name that it has in a module."""
    encoder = config.encoder.build(config.data.image, UniformMasking(secondary=0.0))
    return nn.ModuleDict({"encoder": encoder})


def check_sizes(config: Experiment, weights: Mapping[str, Tensor]) -> None:
    """
    Raises:
        ValueError: a number in a config is larger than any model of these weights has.
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
    tensors = with_values(weights)
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
