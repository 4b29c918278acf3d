"""fastmim: masked-image-modelling pre-training."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torchvision.transforms import Compose

    from .export.trained_encoder import FeatureExtractor

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(path: str | Path) -> tuple[FeatureExtractor, Compose]:
    """Loads a trained encoder and the transform of its images.

    Example: `encoder, transform = fastmim.load("runs/mine")`, then `encoder(transform(image)[None])` returns (1, D)
    features of a PIL image.

    Args:
        path: run folder, folder written by `fastmim export` (for timm or hub-folder), or official checkpoint.

    Returns:
        The encoder in evaluation mode, and the transform of a PIL image to its (C, H, W) input.

    Raises:
        ValueError: the path is not a run, an export or an official checkpoint, or the weights do not fit the
            description.
    """
    from .export.load import load as load_encoder  # imported here, because importing fastmim must not import torch

    return load_encoder(path)
