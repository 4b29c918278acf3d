"""Detection: from a config to a detector, and its average precision on test images. May import L3 and below."""

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
from ..data.ahead import Ahead
from ..data.coco import Annotations
from ..data.crops import ScaleJitterCrop
from ..data.loader import Loaded, open_loader, share_of_cores
from ..data.manifest import Manifest
from ..data.quarantine import BadFilesError, Quarantine
from ..data.strict_json import short
from ..detection import Detect
from ..detector import Detector
from ..engine import Process
from ..tokens import Cut
from .classify import seeded_encoder
from .tested import Tested

PIECE = 8
"""Test images in a forward, whatever the number of processes: so no process count changes a detection."""


class Detection(Tested):
    """A run that trains a detector; its scores are COCO's, of boxes and masks."""

    def __init__(self, config: Detect, process: Process):
        try:
            import pycocotools  # noqa: F401
        except ImportError as error:
            raise ValueError(f"detection needs pycocotools ({error}): pip install fastmim[detect]") from error
        super().__init__(config, process)
        data, nothing = config.data, torch.empty(0, dtype=torch.int64)
        self.same_everywhere(self.test_annotations.sha256, data.test_annotations)
        self.ahead = Ahead(self.loader, self.target, data.workers or share_of_cores())
        whole = ScaleJitterCrop((1.0, 1.0), interpolation=data.crop.interpolation)
        plain = replace(data, crop=whole, flip=0.0)
        self.test_loader = open_loader(self.test, plain, 0, Quarantine(self.test, 0), nothing, process.device)

    def scan(self) -> Manifest:
        data = self.config.data
        self.annotations, self.test_annotations = Annotations(data.annotations), Annotations(data.test_annotations)
        ours, theirs = self.annotations.categories.items(), self.test_annotations.categories.items()
        if different := ours ^ theirs:
            raise ValueError(
                f"{data.annotations} and {data.test_annotations} have other categories: "
                f"{len(different)} are in one file only, such as {short(min(different)[1])}"
            )
        return self.annotations.within(super().scan(), with_objects=True)

    def trained_on(self) -> dict[str, tuple[str, str]]:
        return super().trained_on() | {"annotations": (self.config.data.annotations, self.annotations.sha256)}

    def build(self) -> Detector:
        self.test = self.test_annotations.within(Manifest.scan(self.config.data.test), with_objects=False)
        return build(self.config, len(self.annotations.categories), self.source)

    def facts(self) -> dict[str, str]:
        config = self.config
        weights = f"encoder at first that of {config.run.init}, the rest " if config.run.init else ""
        return {
            "images": f"{self.images} with objects for training in {config.data.root} "
            f"({config.data.annotations}, {self.annotations.sha256[:12]}), {len(self.test)} for testing in "
            f"{config.data.test} ({config.data.test_annotations}, {self.test_annotations.sha256[:12]})",
            "model": f"Mask R-CNN on {type(self.module.encoder).__name__}, {len(self.annotations.categories)} "
            f"categories, {self.parameters / 1e6:.2f} M trained parameters",
            "weights": f"{weights}initialised from {config.train.seed}",
        }

    def batches(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor, list[dict[str, Tensor]]]]:
        stream = (ids for step in range(first, last) for ids in self.ids(step))
        with contextlib.closing(self.ahead.batches(stream)) as batches:
            for loaded, targets in batches:
                check_sizes(loaded, self.manifest, self.annotations)
                yield loaded.images, loaded.ids, targets

    def target(self, index: int, sample: Tensor) -> dict[str, Tensor]:
        """What a training sample, a () int64 id, shows of an image of the size that its annotations say."""
        name = self.manifest.paths[index]
        image, _ = self.annotations.of(name)
        (drawn,) = self.loader.cuts(sample[None], [(image["height"], image["width"])])
        return self.annotations.target(name, *drawn, self.config.data.size)

    def score(self) -> dict[str, Any]:
        """Average precision on the test images, each of which counts once. Collective.

        Raises:
            BadFilesError: one of them cannot be used.
        """
        rank, world, device = self.process.rank, self.process.world, self.process.device
        self.share_statistics(self.module)
        pieces = torch.arange(len(self.test)).split(PIECE)
        turns, found = -(-len(pieces) // world), []
        with self.engine.inference():
            for batch in self.test_loader.loaded(pieces[rank::world]):
                check_sizes(batch, self.test, self.test_annotations)
                cuts = self.test_loader.cuts(batch.ids, batch.sizes)
                detections = self.module.predict(batch.images.to(device))
                for index, (cut, _), detected in zip(batch.indices.tolist(), cuts, detections, strict=True):
                    found += results(self.test_annotations, self.test.paths[index], cut, detected)
                turns -= 1
            for _ in range(turns if self.engine.stage == 3 else 0):  # there a forward needs all processes
                shape = (1, *self.config.data.size, len(self.config.data.mean))
                self.module.predict(torch.zeros(shape, dtype=torch.uint8, device=device))
        everything = gather(found, self.process)
        scores = average_precision(self.test_annotations, everything) if rank == 0 else None
        values = torch.tensor(list(scores.values()), dtype=torch.float64) if scores else None
        values = self.engine.from_first(values, torch.Size([len(SCORES)]), torch.float64).tolist()
        return {name: None if math.isnan(value) else value for name, value in zip(SCORES, values, strict=True)}

    def words(self) -> str:
        box, mask = (self.scores[f"{kind}_AP"] for kind in KINDS)
        return "no objects to find" if box is None else f"box AP {100 * box:.1f}, mask AP {100 * mask:.1f}"

    def close(self) -> None:
        self.ahead.close()
        super().close()
        self.test_loader.close()


def build(config: Detect, classes: int, source: Path | None = None) -> Detector:
    """The module of a config, initialised from its seed on the default device, its encoder from `source` if given.

    Raises:
        ValueError: parts that do not fit each other, the image size or the source.
    """
    data, encoder = config.data, seeded_encoder(config, source)
    return Detector(encoder, config.rcnn, classes, data.mean, data.std)


def check_sizes(batch: Loaded, manifest: Manifest, annotations: Annotations) -> None:
    """
    Raises:
        BadFilesError: an image has another size than its annotations say.
    """
    for index, size in zip(batch.indices.tolist(), batch.sizes, strict=True):
        image, _ = annotations.of(manifest.paths[index])
        if size != (image["height"], image["width"]):
            raise BadFilesError(
                f"{manifest.path(index)} is {size[0]} x {size[1]} pixels as seen, {image['height']} x {image['width']} "
                f"in {annotations.path}: correct one of them"
            )


def gather(found: list, process: Process) -> list:
    """What all processes found, on rank 0; nothing on the others. Collective."""
    if process.world == 1:
        return found
    lists = [None] * process.world if process.rank == 0 else None
    dist.gather_object(found, lists)
    return [item for some in lists or () for item in some]


def results(annotations: Annotations, name: str, cut: Cut, detected: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Detections on a whole image that was resized and padded, in COCO's format and pixels of the image."""
    from pycocotools import mask as coco
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    image, _ = annotations.of(name)
    size, categories = (image["height"], image["width"]), list(annotations.categories)
    scale = torch.tensor([size[1] / cut.resized[1], size[0] / cut.resized[0]], device=detected["boxes"].device)
    boxes = detected["boxes"] * scale.repeat(2)
    boxes = torch.minimum(boxes, torch.tensor(size[::-1], device=boxes.device).repeat(2))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # what is left is not in the padding
    boxes, detected = boxes[inside], {name: values[inside] for name, values in detected.items()}
    masks = (paste_masks_in_image(detected["masks"], boxes, size)[:, 0] > 0.5).to("cpu", torch.uint8)
    boxes[:, 2:] -= boxes[:, :2]
    entries = zip(boxes.tolist(), detected["labels"].tolist(), detected["scores"].tolist(), masks.numpy(), strict=True)
    found = []
    for box, label, score, mask in entries:
        code = coco.encode(np.asfortranarray(mask))
        code["counts"] = code["counts"].decode()
        place = {"image_id": image["id"], "category_id": categories[label - 1], "bbox": box, "segmentation": code}
        found.append(place | {"score": score})
    return found
