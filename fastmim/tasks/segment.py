"""The task segmentation: training of a segmenter, and its overlap with test label maps."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.base import Experiment
from ..config.segment import Segment
from ..data.augment import Augmenter, photometric_distortion
from ..data.availability import DataUnavailableError
from ..data.image import seen_size
from ..data.labels import LabelMapLoader, LabelMaps, resized_pairs
from ..data.loader import Loader, limits_of, open_loader
from ..data.manifest import Manifest
from ..data.quarantine import BadFilesError, Quarantine
from ..engine.process import Process
from ..engine.settings import batch_plan
from ..host.extras import require
from ..host.launcher import share_of_cores
from ..model.segmenter import Segmenter, confusion, overlap, slide
from .downstream_task import DownstreamTask
from .initial_encoder import seeded_encoder
from .run_outputs import run_on_all
from .task import MicroBatch, initial_weights
from .training_set import Origin, TrainingSet, scan


class Segmentation(DownstreamTask[Segment, Segmenter]):
    """Task that trains a segmenter.

    The scores are counted over all test pixels that have a class:

    * "iou": intersection over union of each class, by name; None for a class that is neither present nor predicted.
    * "miou": the mean of these over classes; None if no pixel has a class.
    * "pixel_accuracy": the fraction of pixels with the right class; None if no pixel has a class.

    Attributes:
        label_maps: label maps of the training images.
        test_label_maps: label maps of the test images.
    """

    def __init__(self, config: Segment, process: Process):
        data, manifest = config.data, scan(config, process)
        micro, _ = batch_plan(config.train, process.world)
        if micro == 1 and not (process.device.type == "cuda" and process.world > 1 and config.decoder.bn_batch > 1):
            raise ValueError(
                "segmentation needs micro-batches of 2 images or more, got 1: UPerNet has batch norms on maps of one "
                "pixel, and one pixel has no statistics; set train.micro_batch"
            )
        test = Manifest.scan(data.test, "data.test")
        self.label_maps, self.test_label_maps = (
            LabelMaps(images, folder, data.classes, data.reduce_zero_label, limits_of(data))
            for images, folder in ((manifest, data.masks), (test, data.test_masks))
        )
        training = TrainingSet(config, manifest, {"masks": Origin(data.masks, self.label_maps.manifest.hash)})
        changes = Augmenter(photometric_distortion(), config.train.seed) if config.distort else None
        super().__init__(config, process, training, build_segmenter(config, initial_weights(config)), test, changes)
        self.check_same_everywhere(self.test_label_maps.manifest.hash, data.test_masks)
        self.label_loader = LabelMapLoader(self.label_maps, self.loader, config.data.size, self.threads)

    @classmethod
    def check_packages(cls, config: Experiment) -> None:
        super().check_packages(config)
        require("segmentation", "segmentation_models_pytorch.decoders.upernet.decoder")

    @property
    def threads(self) -> int:
        """Number of threads that decode label maps."""
        return self.config.data.workers or share_of_cores()

    def open_test_loader(self) -> Loader:
        nothing = torch.empty(0, dtype=torch.int64)
        return open_loader(self.test, self.config.data, 0, Quarantine(self.test, 0), nothing, self.process.device)

    def find_unusable(self, indices: Tensor) -> Iterator[tuple[int, str]]:
        """Yields (index, reason) of test images that cannot be used, or whose label maps cannot be used.

        Label maps are decoded, because only the values show that a label map is damaged.
        """
        with ThreadPoolExecutor(self.threads) as pool:
            sizes = pool.map(self.label_map_size, indices.tolist())
            for (index, file, reason), size in zip(self.test_loader.headers(indices), sizes, strict=True):
                try:
                    if reason or isinstance(size, BadFilesError):
                        raise BadFilesError(reason or size)
                    self.test_label_maps.check_size(index, size, seen_size(file))
                except BadFilesError as error:
                    yield index, str(error)

    def label_map_size(self, index: int) -> tuple[int, int] | BadFilesError:
        """Returns height and width of a test image's label map, or the error if the label map cannot be used."""
        try:
            height, width = self.test_label_maps.read(index).shape
            return height, width
        except DataUnavailableError:
            raise
        except BadFilesError as error:
            return error

    def bad_label(self, index: int, size: tuple[int, int]) -> str | None:
        try:
            height, width = self.label_maps.read(index).shape
            self.label_maps.check_size(index, (height, width), size)
        except DataUnavailableError:
            raise
        except BadFilesError as error:
            return str(error)
        return None

    def facts(self) -> dict[str, str]:
        data, module = self.config.data, self.module
        return {
            "images": f"{self.images} for training in {data.root} (manifest {self.manifest.hash[:12]}), "
            f"{len(self.test)} for testing in {data.test} (manifest {self.test.hash[:12]})",
            "label maps": f"{data.classes} classes, in {data.masks} (manifest {self.label_maps.manifest.hash[:12]}) "
            f"and {data.test_masks} (manifest {self.test_label_maps.manifest.hash[:12]})",
            "model": f"{type(module.encoder).__name__} + UPerNet, maps of {module.levels.widths} channels "
            f"every {module.levels.strides} pixels, {self.parameters / 1e6:.2f} M trained parameters",
            "weights": self.origin_of_weights(),
            "loss": f"cross-entropy{f' + {module.aux_weight} of the second head' if module.aux_weight else ''}",
            "tested": f"{data.test_mode} images, the weights",
        }

    def batches(self, first: int, last: int) -> Iterator[MicroBatch]:
        return self.label_loader.batches(self.ids_of_updates(first, last))

    def score(self) -> tuple[dict[str, Any], dict[int, str]]:
        self.broadcast_buffers(self.module)
        counts, bad = run_on_all(self.process, self.count_over_test)
        ious, miou, accuracy = overlap(self.process.reduce_sum(counts))
        data = self.config.data
        names = data.names or tuple(str(i) for i in range(data.classes))
        return {"miou": miou, "pixel_accuracy": accuracy, "iou": dict(zip(names, ious, strict=True))}, bad

    def count_over_test(self) -> tuple[Tensor, dict[int, str]]:
        """Counts the pixels of this process's test images by class and prediction.

        Returns:
            (classes, classes) int64, indexed by class and prediction; and the reason for each image left out, by index.
        """
        data, module, device, bad = self.config.data, self.module, self.process.device, {}
        fit = "cover" if data.test_mode == "slide" else "inside"
        settings = data.size, fit, data.crop.interpolation, data.image.channels, self.threads
        counts = torch.zeros((data.classes, data.classes), dtype=torch.int64, device=device)
        indices = self.own_share(range(len(self.test)))
        turns = self.forward_passes(len(self.test))
        with self.engine.inference():
            pairs = resized_pairs(self.test_label_maps, indices, *settings)
            for index, pair in zip(indices, pairs, strict=True):
                if isinstance(pair, BadFilesError):
                    bad[index] = str(pair)
                    continue
                image, labels = pair
                counts += confusion(slide(module, image.to(device), data.size, data.step), labels.to(device))
                turns -= 1
            self.join_forward_passes(module, turns)
        return counts, bad

    def describe_scores(self) -> str:
        miou, accuracy = self.scores["miou"], self.scores["pixel_accuracy"]
        return "no pixel with a class" if miou is None else f"mIoU {miou:.2%}, pixel accuracy {accuracy:.2%}"

    def close(self) -> None:
        """Ends the loaders' threads."""
        super().close()
        self.label_loader.close()


def build_segmenter(config: Segment, source: Path | None = None) -> Segmenter:
    """Builds the segmenter of a config on the default device.

    Args:
        config: the run's config. Its seed initialises all weights that do not come from `source`.
        source: run or export whose weights the encoder takes, or None.

    Raises:
        ValueError: parts, image size and source do not fit each other.
    """
    encoder = seeded_encoder(config, source)
    return Segmenter(encoder, config.decoder, config.data.classes, config.data.image)
