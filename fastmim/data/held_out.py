"""Held-out images: chosen from the images that are trained on, or from a folder beside them. May import config."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ..config.base import Data, ImageData
from ..host.terminal import shown
from .manifest import Manifest
from .sampler import split_held_out


def split(manifest: Manifest, data: ImageData, seed: int) -> tuple[Tensor, Manifest, Tensor]:
    """Chooses the images that are trained on, and the held-out ones.

    Of `data.held_out_root`, evenly spaced images of the list are taken, whatever the seed.

    Args:
        manifest: images of `data.root`.
    Returns: indices of `manifest` to train on, ascending; the images that held-out ones are chosen from; the indices of
        those.
    Raises:
        ValueError: too few images, or images that are in `data.root` as well.
    """
    if not isinstance(data, Data):  # only pre-training holds images out
        return torch.arange(len(manifest)), manifest, torch.empty(0, dtype=torch.int64)
    if not data.held_out_root:
        train, held_out = split_held_out(len(manifest), data.held_out, seed)
        return train, manifest, held_out
    others, count = Manifest.scan(data.held_out_root, "data.held_out_root"), data.held_out
    if len(others) < count:
        few = f"data.held_out={count}, but {shown(data.held_out_root)} has {len(others)} images"
        raise ValueError(f"{few}: lower data.held_out, or add images")
    known = set(manifest.paths)
    for path in map(others.path, range(len(others))):
        if not known.isdisjoint((path, os.path.relpath(path, manifest.root))):
            raise ValueError(
                f"data.held_out_root: {shown(path)} is in {shown(data.root)} too; give images that are not trained on"
            )
    return torch.arange(len(manifest)), others, torch.arange(count) * len(others) // count
