"""The images that a run trains on, their order, and the number of updates over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..config.base import Experiment
from ..data.manifest import Manifest
from ..data.sampler import Sampler
from ..engine.process import Process
from ..run.console import say


class Origin(NamedTuple):
    """A source of samples or labels.

    Attributes:
        place: file or folder, as the config names it.
        digest: hash of the content, in hex digits.
    """

    place: str
    digest: str


class TrainingSet:
    """The images that a run trains on, which are not decoded yet.

    Args:
        config: config of the run.
        manifest: images of `data.root`.
        origins: sources of samples and labels besides the manifest, by their names in a checkpoint.
        labels: (N,) int64 class of each image of the manifest, if the module reads classes.
        index: (M,) int64, ascending indices of the manifest to train on; None = all.

    Attributes:
        sampler: order of the samples.
        updates: number of updates in the run.
        origins: all sources of samples and labels, the manifest included.

    Raises:
        ValueError: there are too few images.
    """

    def __init__(
        self,
        config: Experiment,
        manifest: Manifest,
        origins: Mapping[str, Origin] | None = None,
        labels: Tensor | None = None,
        index: Tensor | None = None,
    ):
        data = config.data
        self.manifest, self.labels = manifest, labels
        self.index = torch.arange(len(manifest)) if index is None else index
        self.sampler = Sampler(self.index, config.train.seed, data.repeats, data.repeats_together)
        self.updates = total_steps(config, len(self.index))
        self.origins = {"manifest": Origin(data.root, manifest.hash), **(origins or {})}


def scan(config: Experiment, process: Process) -> Manifest:
    """Lists the images of `data.root`."""
    return Manifest.scan(config.data.root, "data.root", say if process.rank == 0 else lambda line: None)


def samples_per_epoch(config: Experiment, images: int) -> int:
    """Returns the number of samples in an epoch over `images` training images."""
    return images * (1 if config.data.repeats_together else config.data.repeats)


def total_steps(config: Experiment, images: int) -> int:
    """Returns the updates in a run over `images` training images.

    Raises:
        ValueError: the whole run sees fewer images than one update needs.
    """
    seen = config.train.epochs * samples_per_epoch(config, images)
    if seen < config.train.global_batch:
        raise ValueError(
            f"train.epochs={config.train.epochs} over {images} images shows {seen:.0f} samples, fewer than one update "
            f"of train.global_batch={config.train.global_batch}: raise the epochs or lower the batch"
        )
    return int(seen // config.train.global_batch)
