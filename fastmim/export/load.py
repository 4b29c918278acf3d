"""Loading of a trained encoder and its transform (`fastmim.load`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .. import recipe
from ..config.base import Config, Experiment
from ..config.classify import Finetune, LabelledData, Probe
from ..config.json_form import from_json
from ..convert import official_weights
from ..data.crops import CenterCrop
from ..host.json_files import read_json
from ..host.terminal import shown
from ..model.build import build
from ..model.encoders import PRETRAINING_ONLY
from ..model.masking import WHOLE_IMAGES
from ..run import checkpoint
from ..run.tensors import read_tensors
from .model_outline import outline, tensors_with_values
from .saved_run import open_run
from .timm_models import tensor_names
from .trained_encoder import EncoderDescription, FeatureExtractor, TrainedEncoder

if TYPE_CHECKING:
    from torchvision.transforms import Compose

EncoderRun = Config | Finetune | Probe
"""Config of a run whose encoder keeps its final norm, so that the encoder can be loaded and exported."""
CONTENT = "fastmim"
"""Key of fastmim's description of the encoder in an export's config.json."""
PROBE = {"norm": "fc.0.", "fc": "fc.1."}
"""Names in `ProbeHead` of a probe's batch norm and linear layer."""
LARGEST_CONFIG = 2**20
"""Bytes that a config.json may have."""
LONGEST_REASON = 400
"""Characters of a reason in a message."""


def load(path: str | Path) -> tuple[FeatureExtractor, Compose]:
    """Loads a trained encoder in evaluation mode and the transform of its images.

    Args:
        path: run folder, folder written by `fastmim export` (for timm or hub-folder), or official checkpoint.

    Raises:
        ValueError: the path is none of these, or its weights do not fit its description.
    """
    trained = load_trained(Path(path))
    return trained.model, trained.transform()


def load_trained(path: Path) -> TrainedEncoder:
    """Loads a trained encoder with its description, as `load` does.

    Raises:
        ValueError: the path is no run folder, export or official checkpoint, or its weights do not fit its description.
    """
    if path.is_file():
        return from_official(path)
    if (path / "model.safetensors").is_file():
        return from_export(path)
    if (path / "checkpoints").is_dir():
        config, loaded = open_run(path, shown(path))
        return from_run(config, final_weights(loaded), shown(path))
    raise ValueError(
        f"{shown(path)}: expected a run folder, a folder written by `fastmim export` for timm or hub-folder, or an "
        "official checkpoint"
    )


def final_weights(loaded: checkpoint.LoadedCheckpoint) -> dict[str, Tensor]:
    """Returns the tensors of a run's module; moving averages replace the weights if the run has them."""
    return loaded.state["model"] | loaded.state.get("ema", {})


def from_run(config: Experiment, state: Mapping[str, Tensor], source: str = "the run") -> TrainedEncoder:
    """Makes the trained encoder of a run from its config and weights.

    Args:
        config: config of the run.
        state: tensors of the run's module by name.
        source: name of the run in messages.

    Raises:
        ValueError: the run is of another kind, or the weights do not fit the config.
    """
    config = check_kind(config)
    data, head, classes, masking = config.data, None, 0, WHOLE_IMAGES
    crop, test_size = CenterCrop(interpolation=data.crop.interpolation), data.size
    if isinstance(config, Config):
        masking = config.masking
    else:
        head, classes = config.head, len(state.get("fc.bias", ()))
    if isinstance(data, LabelledData):
        crop = CenterCrop(data.crop_pct, interpolation=data.test_interpolation or data.crop.interpolation)
        test_size = data.test_size or data.size
    if isinstance(config, Probe):  # its batch norm and linear layer are the two parts of `ProbeHead`
        state = {re.sub(r"^(norm|fc)\.", lambda m: PROBE[m[1]], name): tensor for name, tensor in state.items()}
    try:
        found = EncoderDescription(
            config.encoder, masking, data.size, data.mean, data.std, crop, test_size, head, classes
        )
        return found.outline(tensors_with_values(state), isinstance(config, Probe)).fill(state)
    except ValueError as error:
        raise ValueError(_reason(error, source)) from error


def check_kind(config: Experiment) -> EncoderRun:
    """Returns the config of a run whose encoder can be loaded and exported.

    Raises:
        ValueError: the run is of another kind.
    """
    if not isinstance(config, EncoderRun):
        raise ValueError(
            f"expected a pre-training, fine-tuning or probing run, got a {type(config).__name__} run, which trains no "
            "final norm: load the run that it was initialised from (run.init)"
        )
    return config


def from_export(folder: Path) -> TrainedEncoder:
    """Loads the trained encoder of an export.

    Raises:
        ValueError: as `outline_export`.
    """
    outlined, state = outline_export(folder)
    return outlined.fill(state)


def outline_export(folder: Path) -> tuple[TrainedEncoder, dict[str, Tensor]]:
    """Reads the description of an export and checks that its weights fit.

    Returns:
        The trained encoder without memory for its weights, and the weights by fastmim's names.

    Raises:
        ValueError: the folder is no export of this version, or was changed.
    """
    file = folder / "config.json"
    again = "export it again, or load it with timm"
    try:
        stored = read_json(file, LARGEST_CONFIG)[CONTENT]
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
    """Shortens an error about a foreign file to one line that names the file."""
    text = shown(str(error))
    text = text if text.startswith(shown(file)) else f"{shown(file)}: {text}"
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."


def from_official(file: Path) -> TrainedEncoder:
    """Loads the trained encoder of an official checkpoint.

    Raises:
        ValueError: the file is no official checkpoint, or lacks a part of the encoder.
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
            f"{shown(file)} lacks {len(missing)} tensors of the encoder, such as {missing[0]} (fastmim's name)"
        )
    return from_run(config, state)
