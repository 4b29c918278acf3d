"""The task detection: training of a Mask R-CNN, and its average precision on test images."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..analysis.average_precision import KINDS, SCORES, average_precision
from ..config.base import Experiment
from ..config.detect import Detect
from ..data.availability import retrying_reader
from ..data.coco import Annotations
from ..data.crops import ScaleJitterCrop
from ..data.image import refusal, seen_size
from ..data.loader import Loader, limits_of, open_loader
from ..data.manifest import Manifest
from ..data.prefetch import LabelPrefetcher
from ..data.quarantine import BadFilesError, Quarantine
from ..engine.process import Process
from ..host.extras import require
from ..host.json_files import short
from ..host.launcher import share_of_cores
from ..model.detector import Detector
from ..parts import Cut
from .downstream_task import DownstreamTask
from .initial_encoder import seeded_encoder
from .run_outputs import run_on_all
from .task import MicroBatch, initial_weights
from .training_set import Origin, TrainingSet, scan

MANY_PIXELS = 10**8
"""Pixels of all instance masks of an image above which the size of the image is checked first.

Drawing so many pixels takes longer than the check.
"""
MOST_PIXELS = 2 * 10**9
"""Most pixels of all instance masks of a usable image. An image of COCO has up to 0.4 million pixels."""
MOST_OBJECTS = 2000
"""Most objects of a usable image. An image of COCO has up to 93 objects."""
PIECE = 8
"""Test images in a forward pass.

This number is independent of the number of processes, so that results do not depend on the number of processes.
"""


class Detection(DownstreamTask[Detect, Detector]):
    """Task that trains a detector.

    The scores are COCO's average precisions of boxes and instance masks.

    Attributes:
        annotations: objects of the training images.
        test_annotations: objects of the test images.
    """

    def __init__(self, config: Detect, process: Process):
        data = config.data
        self.annotations, self.test_annotations = open_annotations(config)
        manifest = self.annotations.within(scan(config, process), with_objects=True)
        training = TrainingSet(config, manifest, {"annotations": Origin(data.annotations, self.annotations.sha256)})
        test = self.test_annotations.within(Manifest.scan(data.test, "data.test"), with_objects=False)
        module = build_detector(config, len(self.annotations.categories), initial_weights(config))
        super().__init__(config, process, training, module, test)
        self.check_same_everywhere(self.test_annotations.sha256, data.test_annotations)
        threads = data.workers or share_of_cores()
        self.reader = retrying_reader(self.manifest, limits_of(data))
        self.prefetcher = LabelPrefetcher(self.loader, self.target, self.check_size, threads)

    @classmethod
    def check_packages(cls, config: Experiment) -> None:
        super().check_packages(config)
        require("detection", "pycocotools.mask", "torchvision.models.detection")

    def open_test_loader(self) -> Loader:
        data, nothing = self.config.data, torch.empty(0, dtype=torch.int64)
        whole = ScaleJitterCrop((1.0, 1.0), interpolation=data.crop.interpolation)
        plain = replace(data, crop=whole, flip=0.0)
        return open_loader(self.test, plain, 0, Quarantine(self.test, 0), nothing, self.process.device)

    def facts(self) -> dict[str, str]:
        data, categories = self.config.data, len(self.annotations.categories)
        return {
            "images": f"{self.images} with objects for training in {data.root} "
            f"({data.annotations}, {self.annotations.sha256[:12]}), {len(self.test)} for testing in "
            f"{data.test} ({data.test_annotations}, {self.test_annotations.sha256[:12]})",
            "model": f"Mask R-CNN on {type(self.module.encoder).__name__}, {categories} categories, "
            f"{self.parameters / 1e6:.2f} M trained parameters",
            "weights": self.origin_of_weights(),
        }

    def batches(self, first: int, last: int) -> Iterator[MicroBatch]:
        with contextlib.closing(self.prefetcher.batches(self.ids_of_updates(first, last))) as batches:
            for loaded, targets in batches:
                yield loaded.images, loaded.ids, targets

    def target(self, index: int, sample: Tensor) -> dict[str, Tensor]:
        """Returns the objects of an image that a training sample shows.

        Args:
            index: index of the image in the manifest.
            sample: () int64 sample id, which decides the crop.

        Raises:
            BadFilesError: the objects cannot be used.
            DataUnavailableError: the folder of the images is away.
        """
        name = self.manifest.paths[index]
        image, objects = self.annotations.of(name)
        if len(objects) > MOST_OBJECTS or image["height"] * image["width"] * len(objects) > MANY_PIXELS:
            file = self.reader.read(index)
            if reason := refusal(file, limits_of(self.config.data)):
                raise BadFilesError(reason)
            self.check_size(index, {}, seen_size(file))
        (drawn,) = self.loader.cuts(sample[None], [(image["height"], image["width"])])
        try:
            return self.annotations.target(name, *drawn, self.config.data.size)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise BadFilesError(f"its objects in {self.config.data.annotations} cannot be used: {error}") from error

    def check_size(self, index: int, target: dict[str, Tensor], size: tuple[int, int]) -> None:
        """Checks that a training image has the size that its annotations state.

        Args:
            index: index of the image in the manifest.
            target: the image's objects, unused.
            size: height and width of the image, as seen.

        Raises:
            BadFilesError: the sizes differ, or the image has too many objects.
        """
        if problem := misfit(self.annotations, self.manifest.paths[index], size):
            raise BadFilesError(problem)

    def bad_label(self, index: int, size: tuple[int, int]) -> str | None:
        return misfit(self.annotations, self.manifest.paths[index], size)

    def find_unusable(self, indices: Tensor) -> Iterator[tuple[int, str]]:
        for index, file, reason in self.test_loader.headers(indices):
            if reason := reason or misfit(self.test_annotations, self.test.paths[index], seen_size(file)):
                yield index, reason

    def score(self) -> tuple[dict[str, Any], dict[int, str]]:
        self.broadcast_buffers(self.module)
        found, bad = run_on_all(self.process, self.detections)
        everything, every_bad = gather(found, self.process), gather(list(bad), self.process)
        left_out = {self.test.paths[index] for index in every_bad}
        scores = run_on_all(self.process, lambda: self.precision(everything, left_out))
        values = torch.tensor(list(scores.values()), dtype=torch.float64) if scores else None
        values = self.process.broadcast(values, torch.Size([len(SCORES)]), torch.float64).tolist()
        return {name: None if math.isnan(value) else value for name, value in zip(SCORES, values, strict=True)}, bad

    def precision(self, found: list[dict[str, Any]], left_out: set[str]) -> dict[str, float] | None:
        """Returns the average precisions on the first process, and None on the others.

        Args:
            found: detections of all processes, in COCO's format.
            left_out: paths of the test images that are left out.
        """
        return None if self.process.rank else average_precision(self.test_annotations, found, left_out)

    def detections(self) -> tuple[list[dict[str, Any]], dict[int, str]]:
        """Detects objects on this process's test images.

        Returns:
            The detections in COCO's format, and the reason for each image left out, by index.
        """
        device, bad, found = self.process.device, {}, []
        pieces = torch.arange(len(self.test)).split(PIECE)
        turns = self.forward_passes(len(pieces))
        with self.engine.inference():
            for batch, left_out in self.test_loader.intact_batches(self.own_share(pieces)):
                bad |= left_out
                if not len(batch.images):
                    continue
                cuts = self.test_loader.cuts(batch.ids, batch.sizes)
                detections = self.module.predict(batch.images.to(device))
                rows = zip(batch.indices.tolist(), batch.sizes, cuts, detections, strict=True)
                for index, size, (cut, _), detected in rows:
                    name = self.test.paths[index]
                    if problem := misfit(self.test_annotations, name, size):
                        bad[index] = problem
                    else:
                        found += coco_results(self.test_annotations, name, cut, detected)
                turns -= 1
            self.join_forward_passes(self.module, turns)
        return found, bad

    def describe_scores(self) -> str:
        box, mask = (self.scores[f"{kind}_AP"] for kind in KINDS)
        return "no objects to find" if box is None else f"box AP {100 * box:.1f}, mask AP {100 * mask:.1f}"

    def close(self) -> None:
        """Ends the loaders' threads."""
        self.prefetcher.close()
        super().close()


def open_annotations(config: Detect) -> tuple[Annotations, Annotations]:
    """Reads the annotations of training and test images.

    Raises:
        ValueError: the two files have different categories.
    """
    data = config.data
    annotations, test_annotations = Annotations(data.annotations), Annotations(data.test_annotations)
    if different := annotations.categories.items() ^ test_annotations.categories.items():
        raise ValueError(
            f"{data.annotations} and {data.test_annotations} have different categories: "
            f"{len(different)} are in one file only, such as {short(min(different)[1])}"
        )
    return annotations, test_annotations


def build_detector(config: Detect, classes: int, source: Path | None = None) -> Detector:
    """Builds the detector of a config on the default device.

    Args:
        config: the run's config. Its seed initialises all weights that do not come from `source`.
        classes: number of categories of objects.
        source: run or export whose weights the encoder takes, or None.

    Raises:
        ValueError: parts, image size and source do not fit each other.
    """
    encoder = seeded_encoder(config, source)
    return Detector(encoder, config.rcnn, classes, config.data.image)


def misfit(annotations: Annotations, name: str, size: tuple[int, int]) -> str | None:
    """Returns the reason why an image does not fit its annotations, or None.

    Args:
        annotations: the annotations.
        name: path of the image in the annotations.
        size: height and width of the image, as seen.
    """
    image, _ = annotations.of(name)
    if size == (image["height"], image["width"]):
        return excess(annotations, name)
    return (
        f"{size[0]} x {size[1]} pixels as seen, {image['height']} x {image['width']} in {annotations.path}: "
        "correct one of them"
    )


def excess(annotations: Annotations, name: str) -> str | None:
    """Returns the reason why the objects of an image are too many for their instance masks, or None."""
    image, objects = annotations.of(name)
    if len(objects) <= MOST_OBJECTS and image["height"] * image["width"] * len(objects) <= MOST_PIXELS:
        return None
    return (
        f"{len(objects)} objects in {image['width']} x {image['height']} pixels: expected at most {MOST_OBJECTS} "
        f"objects, and {MOST_PIXELS} pixels in all of their masks; cut the image into tiles"
    )


def gather(found: list, process: Process) -> list:
    """Returns the items of all processes on the first process, and nothing on the others. Collective."""
    if process.world == 1:
        return found
    lists: list[Any] | None = [None] * process.world if process.rank == 0 else None
    dist.gather_object(found, lists)
    return [item for some in lists or () for item in some]


def coco_results(annotations: Annotations, name: str, cut: Cut, detected: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Converts the detections on a resized and padded image to COCO's format and the original size.

    Args:
        annotations: annotations of the image.
        name: path of the image in the annotations.
        cut: resize and padding of the image.
        detected: boxes (N, 4), masks (N, 1, h, w), labels (N,) and scores (N,).
    """
    from pycocotools import mask as coco
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    image, _ = annotations.of(name)
    size, categories = (image["height"], image["width"]), list(annotations.categories)
    scale = torch.tensor([size[1] / cut.resized[1], size[0] / cut.resized[0]], device=detected["boxes"].device)
    boxes = detected["boxes"] * scale.repeat(2)
    boxes = torch.minimum(boxes, torch.tensor(size[::-1], device=boxes.device).repeat(2))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # all other boxes lie in the padding
    boxes, detected = boxes[inside], {name: values[inside] for name, values in detected.items()}
    entries = zip(boxes, detected["masks"], detected["labels"].tolist(), detected["scores"].tolist(), strict=True)
    found = []
    for box, part, label, score in entries:
        # One mask at a time, because a hundred instance masks of a large image take gigabytes.
        mask = (paste_masks_in_image(part[None], box[None], size)[0, 0] > 0.5).to("cpu", torch.uint8)
        code: Any = coco.encode(np.asfortranarray(mask.numpy()))
        code["counts"] = code["counts"].decode()
        corner = torch.cat([box[:2], box[2:] - box[:2]]).tolist()
        place = {"image_id": image["id"], "category_id": categories[label - 1], "bbox": corner, "segmentation": code}
        found.append(place | {"score": score})
    return found
