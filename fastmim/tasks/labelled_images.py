"""Images in class folders: their classes, and loaders of whole images for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..config.classify import LabelledData
from ..data.crops import CenterCrop
from ..data.loader import Loader, open_loader
from ..data.manifest import Manifest
from ..data.quarantine import Quarantine
from ..data.sampler import split_held_out

PIECE = 128
"""Test images in a forward pass.

This number is independent of the number of processes, so that sums do not depend on the number of processes.
"""


def class_labels(manifest: Manifest, folder: str) -> list[int]:
    """Returns the class of each image of a manifest.

    Args:
        manifest: lists the images.
        folder: the folder or list file of the images, for the message.

    Raises:
        ValueError: the images have no classes.
    """
    if manifest.labels is None:
        raise ValueError(
            f"{folder}: expected one folder for each class with its images in it, or a list file with the number of "
            "the class after each path"
        )
    return manifest.labels


def count_classes(train: Manifest, test: Manifest, data: LabelledData) -> int:
    """Returns the number of classes.

    Args:
        train: lists the training images.
        test: lists the test images.
        data: names their folders, for messages.

    Raises:
        ValueError: images have no classes, there are fewer than two classes, or the test images have other classes.
    """
    train_labels, test_labels = class_labels(train, data.root), class_labels(test, data.test)
    train_folders, test_folders = class_folders(train.paths, train_labels), class_folders(test.paths, test_labels)
    if train_folders and test_folders:
        others = [label for label, name in test_folders.items() if train_folders.get(label) != name]
        if others:
            label = others[0]
            raise ValueError(
                f"{data.test}: class {label} is {test_folders[label]!r} there and "
                f"{train_folders.get(label, 'none')!r} in {data.root}: both need the same class folders"
            )
    if unknown := set(test_labels) - set(train_labels):
        raise ValueError(
            f"{data.test} has images of class {min(unknown)}, of which {data.root} has none: "
            "add some to data.root, or take those out of data.test"
        )
    if len(set(train_labels)) < 2:
        raise ValueError(f"{data.root}: expected at least two classes, found {len(set(train_labels))}")
    return max(train_labels) + 1


def class_folders(paths: list[str], labels: list[int]) -> dict[int, str] | None:
    """Maps each class to the name of its folder, or returns None if folders are not classes."""
    folders: dict[int, set[str]] = {}
    for path, label in zip(paths, labels, strict=True):
        folders.setdefault(label, set()).add(path.rpartition("/")[0].rpartition("/")[2])
    names = [name for some in folders.values() for name in some]
    if len(names) != len(folders) or len(set(names)) != len(names):
        return None
    return {label: name for label, (name,) in folders.items()}


def open_central_crops(manifest: Manifest, data: LabelledData, device: torch.device) -> Loader:
    """Opens a loader of central crops, as in evaluation. Use `intact` with batches of manifest indices."""
    crop = CenterCrop(data.crop_pct, interpolation=data.test_interpolation or data.crop.interpolation)
    plain = replace(data, crop=crop, flip=0.0, size=data.test_size or data.size)
    nothing = torch.empty(0, dtype=torch.int64)
    return open_loader(manifest, plain, 0, Quarantine(manifest, 0), nothing, device)


def calibration(
    manifest: Manifest, data: LabelledData, count: int, seed: int, device: torch.device
) -> Iterator[Tensor]:
    """Yields random whole images for batch statistics, the same in every process; bad images are left out.

    Args:
        manifest: lists the images.
        data: settings of crops and loading.
        count: number of images; at most all images except one.
        seed: seed of the choice.
        device: device of the batches.

    Yields:
        (B, H, W, C) uint8.
    """
    index = split_held_out(len(manifest), min(count, len(manifest) - 1), seed)[1]
    with open_central_crops(manifest, data, device) as loader:
        for batch, _ in loader.intact_batches(index.split(PIECE)):
            if len(batch.images):
                yield batch.images.to(device)
