"""Objects in COCO's format: what a file says, checked, and the boxes and masks of a sample that is cut from an image.

May import tokens. pycocotools (`pip install pycocotools`) rasterises polygons.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tokens import Cut
from .crops import move
from .decode import places
from .manifest import Manifest

Segmentation = list[np.ndarray] | dict[str, Any]
"""Polygons, each x, y, x, y, ... in pixels, or a run-length encoding."""


class Annotations:
    """A file in COCO's format (cocodataset.org, "Data format", object detection).

    Attributes:
        categories: {id: name}, by id; label k, from 1 on, is the k-th of them.
        images: {file name: entry}, with "id", "height", "width" and "file_name".
        objects: {image id: entries}, with "id" (from 1 on, whatever the file has), "image_id", "category_id", "bbox"
            (x, y, width, height), "segmentation" as `Segmentation`, "area" and "iscrowd".
        sha256: of the file.
    """

    def __init__(self, path: str):
        """
        Raises:
            FileNotFoundError: no such file.
            ValueError: it is not in the format; the message names the entry.
        """
        text = Path(path).read_bytes()
        self.path, self.sha256 = path, hashlib.sha256(text).hexdigest()
        try:
            data = json.loads(text)
            self.categories = {int(c["id"]): str(c["name"]) for c in sorted(data["categories"], key=lambda c: c["id"])}
            images = [
                {name: image[name] for name in ("id", "height", "width", "file_name")} for image in data["images"]
            ]
            entries = data["annotations"]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(
                f"{path}: expected COCO's format, an object with images, annotations and categories: {error!r}"
            ) from error
        self.images = {image["file_name"]: image for image in images}
        self.objects: dict[int, list[dict]] = {image["id"]: [] for image in images}
        if not self.categories or not images or not len(images) == len(self.images) == len(self.objects):
            raise ValueError(f"{path}: expected categories, and images each with an id and a file_name of its own")
        sizes = {image["id"]: (image["height"], image["width"]) for image in images}
        for number, entry in enumerate(entries, 1):
            try:
                self.objects[entry["image_id"]].append(self._object(number, entry, sizes[entry["image_id"]]))
            except (ValueError, LookupError, TypeError) as error:
                name = entry.get("id", number) if isinstance(entry, dict) else f"number {number}"
                raise ValueError(f"{path}: annotation {name}: {error!r}") from error

    def _object(self, number: int, entry: dict, size: tuple[int, int]) -> dict:
        box = [float(value) for value in entry["bbox"]]
        if len(box) != 4 or not all(map(math.isfinite, box)):
            raise ValueError(f"bbox: expected 4 numbers, got {entry['bbox']}")
        if entry["category_id"] not in self.categories:
            raise ValueError(f"category_id {entry['category_id']} is none of the categories")
        mask = entry.get("segmentation")
        if isinstance(mask, list):  # fewer than 3 points enclose nothing
            mask = [np.asarray(polygon, np.float64) for polygon in mask if len(polygon) >= 6]
            # Its rasteriser walks along every edge, in memory of that length.
            if any(len(polygon) % 2 or not np.abs(polygon).max() <= 2 * max(size) for polygon in mask):
                raise ValueError(
                    f"segmentation: expected x, y, x, y, ... within an image of {size[0]} x {size[1]} pixels"
                )
        if not mask:
            raise ValueError("no segmentation: Mask R-CNN needs polygons or a run-length encoding of every object")
        if isinstance(mask, dict) and tuple(mask["size"]) != size:
            raise ValueError(f"its mask is of {mask['size']} pixels, its image of {list(size)}")
        return {
            "id": number,  # pycocotools takes an id of 0 for no match
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": box,
            "segmentation": mask,
            "iscrowd": int(entry.get("iscrowd", 0)),
            "area": float(entry["area"]) if "area" in entry else float(decode(mask, size).sum()),
        }

    def within(self, manifest: Manifest, with_objects: bool) -> Manifest:
        """The images of a manifest that the file names, or of those the ones that show objects which are no crowds.

        Raises:
            ValueError: the manifest lacks one, or none shows an object.
        """
        index = {name: i for i, name in enumerate(manifest.paths)}
        if missing := [name for name in self.images if name not in index]:
            raise ValueError(
                f"{self.path} names {len(missing)} of {len(self.images)} images that are not in {manifest.root}, such "
                f"as {missing[0]}"
            )
        kept = [i for name, i in index.items() if name in self.images and (not with_objects or self.of(name)[1])]
        if not kept:
            raise ValueError(f"{self.path} has no object to learn from: all are crowds, or there are none")
        columns = {
            name: [getattr(manifest, name)[i] for i in kept]
            for name in ("paths", "sizes", "checksums")
            if getattr(manifest, name) is not None
        }
        return replace(manifest, labels=None, **columns)

    def of(self, name: str) -> tuple[dict, list[dict]]:
        """An image's entry, and those of its objects but crowds."""
        image = self.images[name]
        return image, [entry for entry in self.objects[image["id"]] if not entry["iscrowd"]]

    def target(self, name: str, cut: Cut, flip: bool, size: tuple[int, int]) -> dict[str, Tensor]:
        """The objects that a sample of (H, W) shows of an image, moved with its pixels.

        What an object's box holds beyond the window goes; where the window cuts the object itself, the box becomes that
        of the rest. Objects of which no pixel is left go too.

        Returns: "boxes" (N, 4) float32, x and y of two corners, "labels" (N,) int64 from 1 on, "masks" (N, H, W) uint8.
        """
        image, objects = self.of(name)
        labels = {category: label for label, category in enumerate(self.categories, 1)}
        rows, columns = shown(cut, flip, size)
        edge = torch.tensor([cut.resized[1], cut.resized[0]], dtype=torch.float64)
        found: dict[str, list] = {"boxes": [], "labels": [], "masks": []}
        for entry in objects:
            whole = decode(entry["segmentation"], (image["height"], image["width"]))
            # The lines of the sample that may show some of it; the last, which padding (-1) has, is empty.
            y, x = (extent(np.append(whole.any(axis), False)[line]) for axis, line in ((1, rows), (0, columns)))
            part = whole[rows[y]][:, columns[x]]
            if not part.any():
                continue
            mask = np.zeros(size, np.uint8)
            mask[y, x] = part
            left, top, width, height = entry["bbox"]
            corners = torch.tensor([[left, top], [left + width, top + height]], dtype=torch.float64)
            corners = move(corners, cut, flip)
            low, high = corners.amin(dim=0), corners.amax(dim=0)
            if (low < -1).any() or (high > edge + 1).any():
                across, down = extent(part.any(0)), extent(part.any(1))
                low = torch.maximum(low, torch.tensor([x.start + across.start, y.start + down.start]))
                high = torch.minimum(high, torch.tensor([x.start + across.stop, y.start + down.stop]))
            low, high = low.clamp(min=0), torch.minimum(high, edge)
            if (high > low).all():
                found["boxes"].append(torch.cat([low, high]).float())
                found["labels"].append(labels[entry["category_id"]])
                found["masks"].append(torch.from_numpy(mask))
        return {
            "boxes": torch.stack(found["boxes"]) if found["boxes"] else torch.zeros(0, 4),
            "labels": torch.tensor(found["labels"], dtype=torch.int64),
            "masks": torch.stack(found["masks"]) if found["masks"] else torch.zeros(0, *size, dtype=torch.uint8),
        }


def extent(line: np.ndarray) -> slice:
    """From the first to the last True of (N,) bool; empty if there is none."""
    true = np.flatnonzero(line)
    return slice(int(true[0]), int(true[-1]) + 1) if len(true) else slice(0, 0)


def shown(cut: Cut, flip: bool, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the image whose pixel is nearest to each row and column of a sample of (H, W); -1 = padding."""
    found = places(cut, flip, size)
    if found is None:
        rows, columns = map(np.arange, size)
        found = rows, columns[::-1] if flip else columns
    sides = zip(found, cut.window[:2], cut.window[2:], cut.resized, strict=True)
    return tuple(
        np.where(place < 0, -1, start + (2 * place + 1) * full // (2 * resized))
        for place, start, full, resized in sides
    )


def decode(mask: Segmentation, size: tuple[int, int]) -> np.ndarray:
    """A mask as (H, W) uint8 of 0 and 1."""
    from pycocotools import mask as coco

    if isinstance(mask, list):
        mask = coco.merge(coco.frPyObjects([polygon.tolist() for polygon in mask], *size))
    elif isinstance(mask["counts"], list):
        mask = coco.frPyObjects(mask, *size)
    return coco.decode(mask)
