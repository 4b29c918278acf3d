"""`fastmim.load`: a trained encoder and its transform, from a run, an export or an official checkpoint.

May import L3 and below, and convert.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .. import recipe
from ..config.base import Config, Experiment, from_json
from ..config.classify import Finetune, LabelledData, Probe
from ..convert import official_weights
from ..data.crops import CenterCrop
from ..host.json_files import read_json
from ..host.terminal import shown
from ..model.build import build
from ..model.encoders import PRETRAINING_ONLY
from ..model.masking import UniformMasking
from ..run import checkpoint
from ..run.tensors import read_tensors
from ..tasks.model_outline import outline, tensors_with_values
from ..tasks.saved_run import open_run
from .timm_models import tensor_names
from .trained_encoder import EncoderDescription, FeatureExtractor, TrainedEncoder

if TYPE_CHECKING:
    from torchvision.transforms import Compose

CONTENT = "fastmim"
"""Key of our part of an export's config.json."""
PROBE = {"norm": "fc.0.", "fc": "fc.1."}
"""Our names of a probe's batch norm and linear layer, which are the two parts of a classifier."""
LONGEST = 2**20
"""Bytes of a config.json that are read."""
MOST = 400
"""Characters of a reason in a message."""


def load(path: str | Path) -> tuple[FeatureExtractor, Compose]:
    """A trained encoder in evaluation mode, and the transform of its images.

    Args:
        path: run folder, folder of `fastmim export` (timm's layout or ours), or official checkpoint.
    Raises:
        ValueError: none of these.
    """
    trained = find(Path(path))
    return trained.model, trained.transform()


def find(path: Path) -> TrainedEncoder:
    """
    Raises:
        ValueError: no run folder, no export to load, and no official checkpoint.
    """
    if path.is_file():
        return from_official(path)
    if (path / "model.safetensors").is_file():
        return from_export(path)
    if (path / "checkpoints").is_dir():
        config, loaded = open_run(path, shown(path))
        return from_run(config, weights(loaded), shown(path))
    raise ValueError(
        f"{shown(path)}: expected a run folder, a folder written by `fastmim export` for timm or hub-folder, or an "
        "official checkpoint"
    )


def weights(loaded: checkpoint.Loaded) -> dict[str, Tensor]:
    """The tensors of a run's module that count: where an average of weights is kept, that."""
    return loaded.state["model"] | loaded.state.get("ema", {})


def from_run(config: Experiment, state: Mapping[str, Tensor], source: str = "the run") -> TrainedEncoder:
    """Returns what a run of this config has trained, with these weights of its module.

    Args:
        source: what errors call the run.

    Raises:
        ValueError: a run of another kind, or weights that do not fit the config.
    """
    if not isinstance(config, Config | Finetune | Probe):
        raise ValueError(
            f"expected a pre-training, fine-tuning or probing run, got a {type(config).__name__} run, which trains no "
            "final norm: the run that it was initialised from (run.init) can be loaded"
        )
    data, head, classes, masking = config.data, None, 0, UniformMasking(secondary=0.0)
    crop, test_size = CenterCrop(interpolation=data.crop.interpolation), data.size
    if isinstance(config, Config):
        masking = config.masking
    else:
        head, classes = config.head, len(state.get("fc.bias", ()))
    if isinstance(data, LabelledData):
        crop = CenterCrop(data.crop_pct, interpolation=data.test_interpolation or data.crop.interpolation)
        test_size = data.test_size or data.size
    if isinstance(config, Probe):  # whose batch norm is the first part of our classifier
        state = {re.sub(r"^(norm|fc)\.", lambda m: PROBE[m[1]], name): tensor for name, tensor in state.items()}
    try:
        found = EncoderDescription(
            config.encoder, masking, data.size, data.mean, data.std, crop, test_size, head, classes
        )
        return found.outline(tensors_with_values(state), isinstance(config, Probe)).fill(state)
    except ValueError as error:
        raise ValueError(_reason(error, source)) from error


def from_export(folder: Path) -> TrainedEncoder:
    """
    Raises:
        ValueError: as `outline_export`.
    """
    outlined, state = outline_export(folder)
    return outlined.fill(state)


def outline_export(folder: Path) -> tuple[TrainedEncoder, dict[str, Tensor]]:
    """Returns the model of an export, without memory for its weights, and the weights by our names, which fit.

    Raises:
        ValueError: not an export of this version, or one that was changed.
    """
    file = folder / "config.json"
    again = "export it again, or load it with timm"
    try:
        stored = read_json(file, LONGEST)[CONTENT]
        description = EncoderDescription(**{name: from_json(value, recipe, name) for name, value in stored.items()})
    except (OSError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{shown(file)}: expected an encoder exported by this version of fastmim: {again}") from error
    except ValueError as error:
        raise ValueError(f"{_reason(error, file)}: {again}") from error
    file = folder / "model.safetensors"
    try:
        state = read_tensors(file)
        empty = description.outline(tensors_with_values(state))
        places = {theirs: ours for ours, theirs in tensor_names(empty).items()}
        state = {places.get(name, f"encoder.{name}"): tensor for name, tensor in state.items()}
        empty.check(state)
        return empty, state
    except ValueError as error:
        raise ValueError(f"{_reason(error, file)}: {again}") from error


def _reason(error: ValueError, file: str | Path) -> str:
    """Returns an error about a foreign file as one line that is not too long and names the file."""
    text = shown(str(error))
    text = text if text.startswith(shown(file)) else f"{shown(file)}: {text}"
    return text if len(text) <= MOST else f"{text[:MOST]}..."


def from_official(file: Path) -> TrainedEncoder:
    """
    Raises:
        ValueError: no official checkpoint, or one that lacks a part of the encoder.
    """
    found = official_weights.open_official(file)
    try:
        config = official_weights.infer_config(found.format, found.state)
        outline(config, found.state)
        state, _ = official_weights.to_ours(found.format, found.state, build(config))
    except ValueError as error:
        raise ValueError(f"{shown(file)}: {error}") from error
    given = found.format.to_ours(found.format.prepare(found.state))[0]
    encoder = [name for name in state if name.startswith("encoder.")]
    if missing := [n for n in encoder if n not in given and n.rpartition(".")[2] not in PRETRAINING_ONLY]:
        raise ValueError(
            f"{shown(file)} lacks {len(missing)} tensors of the encoder, such as {missing[0]} (by our name)"
        )
    return from_run(config, state)
