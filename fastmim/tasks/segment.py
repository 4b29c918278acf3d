"""Segmentation: from a config to a segmenter, and its overlap with the masks of test images.

May import L3 and below.
"""

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
from ..data.labels import LabelMapLoader, LabelMaps, whole_images
from ..data.loader import Loader, limits_of, open_loader
from ..data.manifest import Manifest
from ..data.quarantine import BadFilesError, Quarantine
from ..engine.process import Process
from ..engine.settings import batch_plan
from ..host.extras import require
from ..host.launcher import share_of_cores
from ..model.segmenter import Segmenter, confusion, overlap, slide
from .classify import seeded_encoder
from .run_outputs import run_on_all
from .task import MicroBatch, initial_weights
from .tested import Tested
from .training_set import Origin, TrainingSet, scan


class Segmentation(Tested[Segment, Segmenter]):
    """A run that trains a segmenter.

    Its scores are "miou", the mean over classes of intersection over union on all test pixels that have a class,
    "pixel_accuracy", the part of these that is right, and "iou", by class (None: neither there nor found; no pixel
    has a class, of all three).
    """

    def __init__(self, config: Segment, process: Process):
        data, manifest = config.data, scan(config, process)
        micro, _ = batch_plan(config.train, process.world)
        if micro == 1 and not (process.device.type == "cuda" and process.world > 1 and config.decoder.bn_batch > 1):
            raise ValueError(
                "segmentation needs micro-batches of 2 images or more, got 1: UPerNet has batch norms of maps of one "
                "pixel, which one image has no statistics of; set train.micro_batch"
            )
        test = Manifest.scan(data.test, "data.test")
        self.masks, self.test_masks = (
            LabelMaps(images, folder, data.classes, data.reduce_zero_label, limits_of(data))
            for images, folder in ((manifest, data.masks), (test, data.test_masks))
        )
        training = TrainingSet(config, manifest, {"masks": Origin(data.masks, self.masks.manifest.hash)})
        changes = Augmenter(photometric_distortion(), config.train.seed) if config.distort else None
        super().__init__(config, process, training, build(config, initial_weights(config)), test, changes)
        self.check_same_everywhere(self.test_masks.manifest.hash, data.test_masks)
        self.mask_loader = LabelMapLoader(self.masks, self.loader, config.data.size, self.threads)

    @classmethod
    def check_packages(cls, config: Experiment) -> None:
        super().check_packages(config)
        require("segmentation", "segmentation_models_pytorch.decoders.upernet.decoder")

    @property
    def threads(self) -> int:
        """Threads that decode masks."""
        return self.config.data.workers or share_of_cores()

    def open_test_loader(self) -> Loader:
        nothing = torch.empty(0, dtype=torch.int64)
        return open_loader(self.test, self.config.data, 0, Quarantine(self.test, 0), nothing, self.process.device)

    def unusable(self, indices: Tensor) -> Iterator[tuple[int, str]]:
        """Yields also the images with masks that cannot be used, which are decoded: their values can be wrong."""
        with ThreadPoolExecutor(self.threads) as pool:
            sizes = pool.map(self.mask_size, indices.tolist())
            for (index, file, reason), size in zip(self.test_loader.headers(indices), sizes, strict=True):
                try:
                    if reason or isinstance(size, BadFilesError):
                        raise BadFilesError(reason or size)
                    self.test_masks.check_size(index, size, seen_size(file))
                except BadFilesError as error:
                    yield index, str(error)

    def mask_size(self, index: int) -> tuple[int, int] | BadFilesError:
        """Returns (height, width) of a test mask, or why the mask cannot be used."""
        try:
            return self.test_masks.read(index).shape
        except DataUnavailableError:
            raise
        except BadFilesError as error:
            return error

    def bad_label(self, index: int, size: tuple[int, int]) -> str | None:
        try:
            self.masks.check_size(index, self.masks.read(index).shape, size)
        except DataUnavailableError:
            raise
        except BadFilesError as error:
            return str(error)
        return None

    def facts(self) -> dict[str, str]:
        config, data, module = self.config, self.config.data, self.module
        seed = config.train.seed
        return {
            "images": f"{self.images} for training in {data.root} (manifest {self.manifest.hash[:12]}), "
            f"{len(self.test)} for testing in {data.test} (manifest {self.test.hash[:12]})",
            "masks": f"{data.classes} classes, in {data.masks} (manifest {self.masks.manifest.hash[:12]}) "
            f"and {data.test_masks} (manifest {self.test_masks.manifest.hash[:12]})",
            "model": f"{type(module.encoder).__name__} + UPerNet, maps of {module.levels.widths} channels "
            f"every {module.levels.strides} pixels, {self.parameters / 1e6:.2f} M trained parameters",
            "weights": f"encoder at first that of {config.run.init}, the rest initialised from {seed}"
            if config.run.init
            else f"initialised from {seed}",
            "loss": f"cross-entropy{f' + {module.aux_weight} of the second head' if module.aux_weight else ''}",
            "tested": f"{data.test_mode} images, the weights",
        }

    def batches(self, first: int, last: int) -> Iterator[MicroBatch]:
        return self.mask_loader.batches(ids for step in range(first, last) for ids in self.ids(step))

    def score(self) -> tuple[dict[str, Any], dict[int, str]]:
        """Overlap with the masks."""
        self.share_statistics(self.module)
        sums, bad = run_on_all(self.process, self.sums)
        ious, miou, accuracy = overlap(self.process.reduce_sum(sums))
        data = self.config.data
        names = data.names or tuple(str(i) for i in range(data.classes))
        return {"miou": miou, "pixel_accuracy": accuracy, "iou": dict(zip(names, ious, strict=True))}, bad

    def sums(self) -> tuple[Tensor, dict[int, str]]:
        """Counts pixels of this process's test images by class and prediction; says which cannot be used."""
        data, module, device, bad = self.config.data, self.module, self.process.device, {}
        fit = "cover" if data.test_mode == "slide" else "inside"
        settings = data.size, fit, data.crop.interpolation, data.image.channels, self.threads
        sums = torch.zeros((data.classes, data.classes), dtype=torch.int64, device=device)
        indices = self.share(range(len(self.test)))
        turns = -(-len(self.test) // self.process.world)
        with self.engine.inference():
            for index, pair in zip(indices, whole_images(self.test_masks, indices, *settings), strict=True):
                if isinstance(pair, BadFilesError):
                    bad[index] = str(pair)
                    continue
                image, labels = pair
                sums += confusion(slide(module, image.to(device), data.size, data.step), labels.to(device))
                turns -= 1
            for _ in range(turns if self.engine.stage == 3 else 0):  # there a forward needs all processes
                module.predict(torch.zeros((1, *data.size, data.image.channels), dtype=torch.uint8, device=device))
        return sums, bad

    def words(self) -> str:
        miou, accuracy = self.scores["miou"], self.scores["pixel_accuracy"]
        return "no pixel with a class" if miou is None else f"mIoU {miou:.2%}, pixel accuracy {accuracy:.2%}"

    def close(self) -> None:
        super().close()
        self.mask_loader.close()


def build(config: Segment, source: Path | None = None) -> Segmenter:
    """The module of a config, initialised from its seed on the default device, its encoder from `source` if given.

    Raises:
        ValueError: parts that do not fit each other, the image size or the source.
    """
    data, encoder = config.data, seeded_encoder(config, source)
    return Segmenter(encoder, config.decoder, data.classes, data.image)
