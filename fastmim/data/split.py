"""Splitting of images into a training set and held-out images."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ..config.base import Data, ImageData
from ..host.terminal import shown
from .manifest import Manifest
from .sampler import split_held_out


def split_images(manifest: Manifest, data: ImageData, seed: int) -> tuple[Tensor, Manifest, Tensor]:
    """Chooses the training images and the held-out images.

    By default, the seed chooses held-out images among those of `data.root`. With `data.held_out_root`, the held-out
    images are evenly spaced in the list of that folder, for every seed, and all images of `data.root` are trained on.

    Args:
        manifest: the images of `data.root`.
        data: settings with the number and the folder of held-out images.
        seed: 0 <= seed < 2**64.

    Returns: the indices in `manifest` to train on, ascending; the manifest of the held-out images; the indices of
        the held-out images in that manifest.

    Raises:
        ValueError: there are too few images, or an image of `data.held_out_root` is in `data.root` too.
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
