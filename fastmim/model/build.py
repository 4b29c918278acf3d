"""Building the module of a pre-training run from its config."""

from __future__ import annotations

import torch

from ..config.base import Config, Experiment
from .mim import MIM
from .objective import Objective


def build(config: Experiment) -> MIM:
    """Builds the module of a pre-training config, initialised from its seed on the default device.

    Raises:
        ValueError: the config is of another task, or its parts do not fit each other or the image size.
    """
    if not isinstance(config, Config):
        raise ValueError(f"expected a pre-training config (Config), got {type(config).__name__}")
    torch.manual_seed(config.train.seed)
    data = config.data
    encoder = config.encoder.build(data.image, config.masking)
    if config.masking.replaces and not encoder.has_visible_token:
        name = type(config.encoder).__name__
        raise ValueError(
            f"masking.secondary: expected 0 for {name}, which has no token for replaced visible patches, got masks "
            f"with such patches"
        )
    decoder = config.decoder.build(encoder)
    if problem := config.loss.misfit(data.size):
        raise ValueError(problem)
    objective = Objective(config.target, config.loss, encoder.patch_size, data.image)
    mim = MIM(config.masking, encoder, decoder, objective, config.train.seed)
    # Draws one mask now, so that a ratio which does not fit the grid is refused before training.
    one = torch.zeros(1, dtype=torch.int64, device="cpu")
    config.masking(config.train.seed, one, encoder.grid, encoder.patch_size)
    encoder.grad_checkpointing = decoder.grad_checkpointing = config.train.activation_checkpointing
    return mim
