"""A run that starts from another one's weights takes the settings of the network from there.

May import L3 and below, and convert.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config.base import Config, Experiment, to_json
from ..config.classify import Finetune, Probe
from ..export.load import outline_export
from ..host.terminal import shown
from ..parts import Decoder, Encoder, ImageSpec
from ..run import checkpoint
from . import classify, pretrain
from .parts import build
from .runs import config_of, open_run

_NAMES = ("encoder", "decoder", "data.size", "data.mean", "data.std")
_OWN = ("drop_path", "shared_bias")
"""Fields of an encoder that a run keeps: how it trains, not what the weights are."""
_FREE = {
    *_OWN,
    *("pos", "layer_scale", "init", "reads", "fill", "token", "token_layer", "window", "output_stride", "bn_batch"),
}
"""Fields of an encoder that may differ although the weights fit."""


@dataclass(frozen=True)
class Source:
    """The network of `run.init`: its parts, and the images that it was trained on. decoder: None if it has none."""

    encoder: Encoder
    decoder: Decoder | None
    image: ImageSpec


@dataclass(frozen=True)
class Inherited:
    """A config with the settings of `run.init`.

    Attributes:
        config: the config to train.
        before: JSON of each part that was replaced, by name, as the config had it.
        words: for a person, the parts that were replaced, and those that differ.
    """

    config: Experiment
    before: dict[str, Any] = field(default_factory=dict)
    words: str = ""


def inherit(config: Experiment, given: Mapping[str, str]) -> Inherited:
    """Gives a config the network settings of `run.init`, unless its own fit the weights there.

    A config file says what it trains in general; the weights say what they are. Settings on the command line win, or
    are refused where the weights do not fit them. A continued run inherits what it did at its start.

    Args:
        given: the words of each setting that was given on the command line, by name.

    Raises:
        ValueError: no weights in `run.init`, or a setting on the command line that does not fit them.
    """
    if checkpoint.steps(Path(config.run.dir) / "checkpoints"):
        return _again(config)
    if not config.run.init:
        return Inherited(config)
    init = Path(config.run.init)
    try:
        source = _of_export(init) if (init / "model.safetensors").is_file() else _of_run(init)
    except DescriptionError as error:
        return Inherited(config, words=f"nothing from run.init: {error}")
    taken: dict[str, Any] = {}
    if isinstance(config, Config):
        if source.decoder is None:
            return Inherited(config)
        if not _fits(config, source):
            taken = {"encoder": _as_tuned(source.encoder, config.encoder), "decoder": source.decoder}
            taken["data.size"] = source.image.size
    elif not _fits(config, source):
        taken = {"encoder": _as_tuned(source.encoder, config.encoder)}
        if isinstance(config, Finetune | Probe):  # other tasks have sizes of their own
            taken["data.size"] = source.image.size
    taken |= {"data.mean": source.image.mean, "data.std": source.image.std}
    return _with(config, taken, given, source)


def _with(config: Experiment, taken: dict[str, Any], given: Mapping[str, str], source: Source) -> Inherited:
    """Gives a config these values, except those that were given."""
    init, notes, before = shown(config.run.init), [], {}
    new = config
    for name, value in taken.items():
        old = _get(config, name)
        inside = {key.rpartition(".")[2]: key for key in given if key.startswith(f"{name}.")}
        for part, key in inside.items():
            if part in _OWN:
                continue
            if not hasattr(value, part):
                raise ValueError(
                    f"--{key} {given[key]} (command line), but the weights in run.init={init} are of the {name} "
                    f"{type(value).__name__}, which has no {part}; leave --{key} out"
                )
            if (theirs := getattr(value, part)) != getattr(old, part):
                raise ValueError(
                    f"--{key} {given[key]} (command line), but the weights in run.init={init} are of {key} "
                    f"{_words(theirs)}; leave --{key} out to use that, or give another run.init"
                )
        if name in given:
            if old != value:
                notes.append(f"{name} {_words(old)} as given (there {_words(value)})")
            continue
        if old != value:
            new = _set(new, name, value)
            before[name] = to_json(old)
            notes += _differences(name, old, value)
    if "encoder" not in taken and source.image.size != config.data.size and isinstance(config, Finetune | Probe):
        notes.append(f"data.size {_words(config.data.size)} is the config's (there {_words(source.image.size)})")
    return Inherited(new, before, f"from {init}: {', '.join(notes)}" if notes else "")


def _again(config: Experiment) -> Inherited:
    """Repeats what a continued run inherited at its start, for the parts that the config still has as then."""
    loaded = checkpoint.load(Path(config.run.dir) / "checkpoints", lambda line: None, config_of)
    before, stored = loaded.meta.get("inherited"), config_of(loaded)
    if not isinstance(before, dict) or type(stored) is not type(config):
        return Inherited(config)
    new, same = config, {}
    for name, value in before.items():
        if name in _NAMES and to_json(_get(config, name)) == value:
            new = _set(new, name, _get(stored, name))
            same[name] = value
    words = f"{', '.join(same)} as this run took at its start from {shown(config.run.init or 'run.init')}"
    return Inherited(new, same, words if same else "")


class DescriptionError(ValueError):
    """An export does not describe its network, though its weights may be sound."""


def _of_export(folder: Path) -> Source:
    """The network of an export, without memory for it.

    Raises:
        DescriptionError: its config.json is missing, changed, or of another version.
    """
    try:
        found, _ = outline_export(folder)
    except ValueError as error:
        raise DescriptionError(error) from error
    return Source(found.spec, None, found.image)


def _of_run(folder: Path) -> Source:
    """The network of a run folder."""
    config, _ = open_run(folder, "run.init")
    decoder = config.decoder if isinstance(config, Config) else None
    return Source(config.encoder, decoder, config.data.image)


def _as_tuned(theirs: Encoder, ours: Encoder) -> Encoder:
    """Their encoder with our settings of training."""
    both = (name for name in _OWN if hasattr(theirs, name) and hasattr(ours, name))
    return replace(theirs, **{name: getattr(ours, name) for name in both})


def _fits(config: Experiment, source: Source) -> bool:
    """True if the config describes the network that the weights are of; sizes of positions and windows may differ."""
    parts = [(config.encoder, source.encoder)]
    if isinstance(config, Config):
        parts.append((config.decoder, source.decoder))
        if config.data.size != source.image.size:
            return False
    if config.data.image.channels == source.image.channels and all(_similar(ours, theirs) for ours, theirs in parts):
        return True
    # The same network can be written in several ways: a depth may be a number or that of a name.
    try:
        data = replace(config.data, mean=source.image.mean, std=source.image.std)
        with torch.device("meta"):  # only shapes are compared
            if isinstance(config, Config):
                ours, theirs = (
                    build(replace(config, encoder=encoder, decoder=decoder, data=data))
                    for encoder, decoder in ((config.encoder, config.decoder), (source.encoder, source.decoder))
                )
                return pretrain.shapes(ours) == pretrain.shapes(theirs) and _heads(ours) == _heads(theirs)
            ours = classify.build_encoder(config.encoder, data)
            theirs = classify.build_encoder(source.encoder, replace(data, size=source.image.size))
            return not classify.fit(ours, theirs.state_dict())[1] and _heads(ours) == _heads(theirs)
    except ValueError:
        return False


def _similar(ours: Encoder | Decoder, theirs: Encoder | Decoder) -> bool:
    """True if two parts are of one kind and written alike, except the fields that may differ."""
    names = [f.name for f in dataclasses.fields(ours) if f.name not in _FREE]
    return type(ours) is type(theirs) and all(getattr(ours, name) == getattr(theirs, name) for name in names)


def _heads(module: nn.Module) -> list[int]:
    """Numbers that shape no weight, but say how attention reads them."""
    return [part.num_heads for part in module.modules() if isinstance(getattr(part, "num_heads", None), int)]


def _get(config: Experiment, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _set(config: Experiment, name: str, value: Any) -> Experiment:
    section, _, inner = name.partition(".")
    return replace(config, **{section: replace(getattr(config, section), **{inner: value}) if inner else value})


def _differences(name: str, old: Any, new: Any) -> list[str]:
    """Says in words what was replaced, field by field where both are of one kind."""
    if type(old) is not type(new):
        return [f"{name} {type(new).__name__} (the config has {type(old).__name__})"]
    if not dataclasses.is_dataclass(new):
        return [f"{name} {_words(new)} (the config has {_words(old)})"]
    pairs = [(f.name, getattr(old, f.name), getattr(new, f.name)) for f in dataclasses.fields(new)]
    return [f"{name}.{part} {_words(b)} (the config has {_words(a)})" for part, a, b in pairs if a != b]


def _words(value: Any) -> str:
    """A value as the command line takes it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
