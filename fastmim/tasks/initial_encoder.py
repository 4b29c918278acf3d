"""The encoder of a downstream task: initialised from the seed, or with the weights of `run.init`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..config.base import Experiment, ImageData
from ..convert.position_tables import resize_table
from ..export.saved_run import check_pretrained, open_weights
from ..host.terminal import shown
from ..model.encoders import PRETRAINING_ONLY
from ..model.encoders.base import EncoderModule
from ..model.masking import WHOLE_IMAGES
from ..parts import Encoder
from ..run.tensors import read_tensors

SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
"""End of the name of a relative-position table that all blocks share."""
BLOCK_TABLE = "attn.relative_position_bias_table"
"""End of the name of a block's own relative-position table."""


def seeded_encoder(config: Experiment, source: Path | None) -> EncoderModule:
    """Builds the encoder of a config, and seeds torch for the parts that are built next.

    Args:
        config: the run's config.
        source: run or export whose weights the encoder takes; None = initialise the weights from the seed.

    Raises:
        ValueError: the encoder does not fit the image size, or the source does not fit the encoder.
    """
    torch.manual_seed(config.train.seed)
    encoder = build_encoder(config.encoder, config.data)
    if source:
        load_encoder(encoder, source)
    encoder.grad_checkpointing = config.train.activation_checkpointing
    return encoder


def build_encoder(spec: Encoder, data: ImageData) -> EncoderModule:
    """Builds an encoder for whole images, whose position tables are trained too.

    Parameters that only pre-training uses are frozen.
    """
    encoder = spec.build(data.image, WHOLE_IMAGES)
    for name, parameter in encoder.named_parameters():
        last = name.rpartition(".")[2]
        if last in PRETRAINING_ONLY or last == "pos_embed":
            parameter.requires_grad_(last == "pos_embed")
    return encoder


def load_encoder(encoder: EncoderModule, source: Path) -> None:
    """Loads the weights of a run's newest checkpoint, or of an exported encoder, into an encoder.

    Position tables are resized to the encoder's grid and windows. A table that all blocks share is copied into every
    block of an encoder whose blocks have their own tables (microsoft/SimMIM, utils.py).

    Args:
        encoder: receives the weights.
        source: run folder, or folder of an export.

    Raises:
        ValueError: the source holds no weights, or weights of other names or shapes.
    """
    loaded = None
    if (source / "model.safetensors").is_file():
        try:
            weights = read_tensors(source / "model.safetensors")
        except ValueError as error:
            raise ValueError(f"run.init: {shown(source / 'model.safetensors')}: {error}") from error
        if hasattr(encoder, "backbone") and not any(name.startswith("backbone.") for name in weights):
            weights = {f"backbone.{name}": tensor for name, tensor in weights.items()}
        if "backbone.head.norm.weight" in encoder.state_dict():  # `norm_pre` in timm if the norm precedes the pooling
            weights = {name.replace("backbone.norm_pre.", "backbone.head.norm."): t for name, t in weights.items()}
    else:
        loaded = open_weights(source, "run.init")  # of a run of any kind, because the tensors are compared below
        model = loaded.state["model"]
        weights = {name.removeprefix("encoder."): t for name, t in model.items() if name.startswith("encoder.")}
    state, problems = fit_weights(encoder, weights)
    if problems:
        named = shown("; ".join(problems[:3]))
        if loaded:
            check_pretrained(loaded, source)
        raise ValueError(f"run.init: {shown(source)} has another encoder than this config ({named})")
    encoder.load_state_dict(state)


def fit_weights(encoder: EncoderModule, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Fits weights to an encoder, see `load_encoder`.

    Args:
        encoder: the encoder, which is not changed.
        weights: tensors by name, of a similar encoder.

    Returns:
        The encoder's state with these weights, and a description of each tensor that does not fit.
    """
    weights, ours = dict(weights), encoder.state_dict()
    if shared := [name for name in weights if name.endswith(SHARED_TABLE) and name not in ours]:
        table = weights.pop(shared[0])
        weights |= {name: table for name in ours if name.endswith(BLOCK_TABLE)}
    problems = [f"{n} is not there" for n in ours if n not in weights and n.rpartition(".")[2] not in PRETRAINING_ONLY]
    for name, tensor in weights.items():
        if name.rpartition(".")[2] in PRETRAINING_ONLY:
            continue
        if name not in ours:
            problems.append(f"{name} has no place here")
        elif tensor.shape != ours[name].shape:
            resized = resize_table(name, tensor, ours[name].shape, encoder)
            if resized is None:
                problems.append(f"{name} is {tuple(tensor.shape)}, here {tuple(ours[name].shape)}")
            else:
                ours[name] = resized
        else:
            ours[name] = tensor
    return ours, problems
