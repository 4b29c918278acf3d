"""Network settings that a run takes from the run or export whose weights it starts from (run.init)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config.base import Config, Experiment
from ..config.classify import Finetune, Probe
from ..config.json_form import to_json
from ..export.load import outline_export
from ..export.saved_run import config_of, open_run
from ..host.terminal import shown
from ..model.build import build
from ..parts import Decoder, Encoder, ImageSpec
from ..run import checkpoint
from . import initial_encoder, pretrain

_NAMES = ("encoder", "decoder", "data.size", "data.mean", "data.std")
_OWN = ("drop_path", "shared_bias")
"""Fields of an encoder that a run keeps, because these fields affect the training and not the weights."""
_FREE = {
    *_OWN,
    *("pos", "layer_scale", "init", "reads", "fill", "token", "token_layer", "window", "output_stride", "bn_batch"),
}
"""Fields of an encoder that may differ from the weights' config although the weights fit."""


@dataclass(frozen=True)
class Source:
    """Network of `run.init`, and the images that it was trained on.

    Attributes:
        encoder: config of the encoder.
        decoder: config of the decoder; None for an export, a classifier, a detector or a segmenter.
        image: size and normalisation of the images.
    """

    encoder: Encoder
    decoder: Decoder | None
    image: ImageSpec


@dataclass(frozen=True)
class InheritedSettings:
    """Config after it has taken settings from `run.init`.

    Attributes:
        config: the config to train.
        before: the config's own value of each replaced setting, as JSON, by name.
        words: sentence for the user about the settings that were replaced and the settings that differ.
    """

    config: Experiment
    before: dict[str, Any] = field(default_factory=dict)
    words: str = ""


def inherit_settings(config: Experiment, given: Mapping[str, str]) -> InheritedSettings:
    """Takes the network settings of `run.init` if the weights there do not fit the config.

    `data.mean` and `data.std` are always those of `run.init`. Settings on the command line are kept, and refused if the
    weights do not fit them. A continued run inherits the same settings as at its start.

    Args:
        config: the config of the new run.
        given: the value of each setting on the command line, as typed, by name.

    Raises:
        ValueError: `run.init` holds no weights, or a setting on the command line does not fit the weights.
    """
    if checkpoint.steps(Path(config.run.dir) / "checkpoints"):
        return _again(config)
    if not config.run.init:
        return InheritedSettings(config)
    init = Path(config.run.init)
    try:
        source = _of_export(init) if (init / "model.safetensors").is_file() else _of_run(init)
    except DescriptionError as error:
        return InheritedSettings(config, words=f"nothing from run.init: {error}")
    taken: dict[str, Any] = {}
    if isinstance(config, Config):
        if source.decoder is None:
            return InheritedSettings(config)
        if not _fits(config, source):
            taken = {"encoder": _as_tuned(source.encoder, config.encoder), "decoder": source.decoder}
            taken["data.size"] = source.image.size
    elif not _fits(config, source):
        taken = {"encoder": _as_tuned(source.encoder, config.encoder)}
        if isinstance(config, Finetune | Probe):  # detection and segmentation choose their own image size
            taken["data.size"] = source.image.size
    taken |= {"data.mean": source.image.mean, "data.std": source.image.std}
    return _with(config, taken, given, source)


def _with(config: Experiment, taken: dict[str, Any], given: Mapping[str, str], source: Source) -> InheritedSettings:
    """Replaces settings of a config by the taken values, except the settings on the command line."""
    init, notes, before = shown(config.run.init or ""), [], {}
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
    return InheritedSettings(new, before, f"from {init}: {', '.join(notes)}" if notes else "")


def _again(config: Experiment) -> InheritedSettings:
    """Inherits for a continued run the settings of its start, except settings that were changed since."""
    loaded = checkpoint.load(Path(config.run.dir) / "checkpoints", lambda line: None, config_of)
    if loaded is None:
        return InheritedSettings(config)
    before, stored = loaded.meta.get("inherited"), config_of(loaded)
    if not isinstance(before, dict) or type(stored) is not type(config):
        return InheritedSettings(config)
    new, same = config, {}
    for name, value in before.items():
        if name in _NAMES and to_json(_get(config, name)) == value:
            new = _set(new, name, _get(stored, name))
            same[name] = value
    words = f"{', '.join(same)} as this run took at its start from {shown(config.run.init or 'run.init')}"
    return InheritedSettings(new, same, words if same else "")


class DescriptionError(ValueError):
    """Missing or invalid description of an export's network. The weights of the export may still be sound."""


def _of_export(folder: Path) -> Source:
    """Returns the network of an export, without memory for its weights.

    Raises:
        DescriptionError: config.json is missing, changed, or of another version.
    """
    try:
        found, _ = outline_export(folder)
    except ValueError as error:
        raise DescriptionError(error) from error
    return Source(found.spec, None, found.image)


def _of_run(folder: Path) -> Source:
    """Returns the network of a run folder."""
    config, _ = open_run(folder, "run.init")
    decoder = config.decoder if isinstance(config, Config) else None
    return Source(config.encoder, decoder, config.data.image)


def _as_tuned(theirs: Encoder, ours: Encoder) -> Encoder:
    """Returns the source's encoder with the training settings of our encoder (`_OWN`)."""
    both = (name for name in _OWN if hasattr(theirs, name) and hasattr(ours, name))
    return replace(theirs, **{name: getattr(ours, name) for name in both})


def _fits(config: Experiment, source: Source) -> bool:
    """True if the source's weights fit the config's network. Sizes of positions and windows may differ."""
    parts: list[tuple[Encoder | Decoder, Encoder | Decoder | None]] = [(config.encoder, source.encoder)]
    if isinstance(config, Config):
        parts.append((config.decoder, source.decoder))
        if config.data.size != source.image.size:
            return False
    if config.data.image.channels == source.image.channels and all(_similar(ours, theirs) for ours, theirs in parts):
        return True
    # A network can be written in several ways (a depth as a number or by a model's name), so the tensors decide.
    try:
        data = replace(config.data, mean=source.image.mean, std=source.image.std)
        with torch.device("meta"):  # only shapes are compared
            if isinstance(config, Config):
                ours, theirs = (
                    build(replace(config, encoder=encoder, decoder=decoder, data=data))
                    for encoder, decoder in ((config.encoder, config.decoder), (source.encoder, source.decoder))
                )
                return pretrain.shapes(ours) == pretrain.shapes(theirs) and _heads(ours) == _heads(theirs)
            ours = initial_encoder.build_encoder(config.encoder, data)
            theirs = initial_encoder.build_encoder(source.encoder, replace(data, size=source.image.size))
            return not initial_encoder.fit_weights(ours, theirs.state_dict())[1] and _heads(ours) == _heads(theirs)
    except ValueError:
        return False


def _similar(ours: Encoder | Decoder, theirs: Encoder | Decoder | None) -> bool:
    """True if two parts are of one class and have equal fields, except the fields that may differ."""
    names = [f.name for f in dataclasses.fields(ours) if f.name not in _FREE]
    return type(ours) is type(theirs) and all(getattr(ours, name) == getattr(theirs, name) for name in names)


def _heads(module: nn.Module) -> list[int]:
    """Returns the numbers of attention heads, which matter although no weight's shape depends on them."""
    found = (getattr(part, "num_heads", None) for part in module.modules())
    return [number for number in found if isinstance(number, int)]


def _get(config: Experiment, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _set(config: Experiment, name: str, value: Any) -> Experiment:
    section, _, inner = name.partition(".")
    return replace(config, **{section: replace(getattr(config, section), **{inner: value}) if inner else value})


def _differences(name: str, old: Any, new: Any) -> list[str]:
    """Describes a replaced setting, field by field if both values are of one class."""
    if type(old) is not type(new):
        return [f"{name} {type(new).__name__} (the config has {type(old).__name__})"]
    if not dataclasses.is_dataclass(new):
        return [f"{name} {_words(new)} (the config has {_words(old)})"]
    pairs = [(f.name, getattr(old, f.name), getattr(new, f.name)) for f in dataclasses.fields(new)]
    return [f"{name}.{part} {_words(b)} (the config has {_words(a)})" for part, a, b in pairs if a != b]


def _words(value: Any) -> str:
    """Returns a value in the form of the command line."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
