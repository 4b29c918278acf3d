"""Annotations in COCO's format: their check, and the boxes and object masks of a sample.

pycocotools (`pip install pycocotools`) draws the polygons.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..host.json_files import is_whole, parse_large, read_large, short
from ..host.terminal import shown
from ..parts import Cut
from .crops import move
from .decode import places
from .manifest import Manifest

Segmentation = list[np.ndarray] | dict[str, Any]
"""The mask of an object: polygons or a run-length encoding.
A polygon is (N,) float64: x, y, x, y, ... in pixels."""

_MAX_PIXELS = 178_956_970  # largest image that the reader accepts
_MAX_CATEGORIES = 10_000
_MAX_OUTLINE = 10**6  # pixels of an object's outline; drawing takes time and memory for each pixel
_MAX_POLYGONS = 1000  # polygons of an object; the time to merge them grows with the square of their number


class Annotations:
    """The content of a file in COCO's format (cocodataset.org, "Data format", object detection).

    Attributes:
        path: path of the file.
        categories: {id: name}, sorted by id. Label k, from 1 on, is the k-th category.
        images: {file name: entry}. An entry has "id", "height", "width" and "file_name".
        objects: {image id: entries}. An entry has "id" (1, 2, ... in the order of the file), "image_id", "category_id",
            "bbox" (x, y, width, height), "segmentation" (see `Segmentation`), "area" (None if missing) and "iscrowd".
        sha256: SHA-256 of the file.
    """

    def __init__(self, path: str):
        """Reads and checks the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is not in COCO's format; the message names the entry.
        """
        name = shown(path)
        refusal = f"{name}: expected COCO's format, an object with images, annotations and categories"
        try:
            text = read_large(path, refusal)
        except OSError as error:
            raise type(error)(f"annotations {name} cannot be read: {error.strerror}") from error
        self.path, self.sha256 = path, hashlib.sha256(text).hexdigest()
        try:
            # On average, COCO's own files have 500 characters for each object, 150 for each list and 30 for each text.
            texts = 10**6 + len(text) // 16
            data = parse_large(
                text, 10**5 + len(text) // 12, 10**5 + len(text) // 40, keys=texts, texts=texts, change=_compact
            )
            columns = []
            for column in ("categories", "images", "annotations"):
                if not isinstance(data.get(column), list):
                    raise ValueError(f"{column}: expected a list, got {short(data.get(column))}")
                columns.append(data[column])
        except ValueError as error:
            raise ValueError(f"{refusal}: {error}") from None
        del data, text
        categories, images, entries = columns
        self.categories = self._categories(categories)
        self.images: dict[str, dict] = {}
        self.objects: dict[int | str, list[dict]] = {}
        sizes: dict[int | str, tuple[int, int]] = {}
        for number, image in enumerate(images):
            kept = self._image(f"{name}: images[{number}]", image)
            self.images[kept["file_name"]], self.objects[kept["id"]] = kept, []
            sizes[kept["id"]] = kept["height"], kept["width"]
        if not images or not len(images) == len(self.images) == len(self.objects):
            raise ValueError(f"{name}: expected images, each with its own id and file_name")
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, dict):
                raise ValueError(f"{name}: annotations[{number - 1}]: expected an object, got {short(entry)}")
            try:
                image = entry.get("image_id")
                if not isinstance(image, int | str) or image not in sizes:
                    raise ValueError(f"image_id: {short(image)} is none of the images")
                self.objects[image].append(self._object(number, entry, sizes[image]))
            except ValueError as error:
                raise ValueError(f"{name}: annotation {short(entry.get('id', number))}: {error}") from None

    def _categories(self, categories: list) -> dict[int, str]:
        found = {}
        for number, entry in enumerate(categories):
            if (
                not isinstance(entry, dict)
                or not is_whole(entry.get("id"), 0, 2**31)
                or not isinstance(entry.get("name"), str)
            ):
                raise ValueError(
                    f"{shown(self.path)}: categories[{number}]: expected a whole number as id and a name, got "
                    f"{short([entry.get('id'), entry.get('name')]) if isinstance(entry, dict) else short(entry)}"
                )
            found[entry["id"]] = entry["name"]
        if not 0 < len(found) == len(categories) <= _MAX_CATEGORIES:
            raise ValueError(
                f"{shown(self.path)}: expected 1 to {_MAX_CATEGORIES} categories, each with its own id, got "
                f"{len(categories)} with {len(found)} ids"
            )
        return dict(sorted(found.items()))

    @staticmethod
    def _image(place: str, image: Any) -> dict[str, Any]:
        if not isinstance(image, dict):
            raise ValueError(f"{place}: expected an object, got {short(image)}")
        kept = {name: image.get(name) for name in ("id", "height", "width", "file_name")}
        if not isinstance(kept["id"], int | str) or isinstance(kept["id"], bool):
            raise ValueError(f"{place}: id: expected a whole number, got {short(kept['id'])}")
        if not isinstance(kept["file_name"], str):
            raise ValueError(f"{place}: file_name: expected text, got {short(kept['file_name'])}")
        height, width = kept["height"], kept["width"]
        if (
            height is None
            or width is None
            or not (is_whole(height, 1, _MAX_PIXELS) and is_whole(width, 1, _MAX_PIXELS))
            or height * width > _MAX_PIXELS
        ):
            raise ValueError(
                f"{place}: height and width: expected whole numbers, at most {_MAX_PIXELS} pixels in all, got "
                f"{short(height)} and {short(width)}"
            )
        return kept

    def _object(self, number: int, entry: dict, size: tuple[int, int]) -> dict:
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_coordinate, box)):
            raise ValueError(f"bbox: expected 4 numbers, got {short(entry.get('bbox'))}")
        category, crowd, area = (entry.get(name) for name in ("category_id", "iscrowd", "area"))
        if type(category) is not int or category not in self.categories:
            raise ValueError(f"category_id {short(category)} is none of the categories")
        if crowd not in (None, 0, 1):
            raise ValueError(f"iscrowd: expected 0 or 1, got {short(crowd)}")
        if area is not None and not (isinstance(area, int | float) and 0 <= area <= _MAX_PIXELS):
            raise ValueError(f"area: expected a number of pixels, got {short(area)}")
        return {
            "id": number,  # to pycocotools, an id of 0 means no match
            "image_id": entry["image_id"],
            "category_id": category,
            "bbox": list(map(float, box)),
            "segmentation": segmentation(entry.get("segmentation"), size),
            "iscrowd": int(crowd or 0),
            "area": None if area is None else float(area),
        }

    def within(self, manifest: Manifest, with_objects: bool) -> Manifest:
        """Returns the part of a manifest with the images of this file.

        Args:
            manifest: the images of the data folder.
            with_objects: True keeps only images with an object that is not a crowd.

        Raises:
            ValueError: the manifest lacks an image of this file, or no image is left.
        """
        index = {name: i for i, name in enumerate(manifest.paths)}
        if missing := [name for name in self.images if name not in index]:
            raise ValueError(
                f"{shown(self.path)} names {len(missing)} of {len(self.images)} images that are not in "
                f"{shown(manifest.root)}, such as {shown(missing[0])}"
            )
        kept = [i for name, i in index.items() if name in self.images and (not with_objects or self.of(name)[1])]
        if not kept:
            raise ValueError(f"{shown(self.path)} has no object to learn from: it has no objects, or only crowds")
        columns = {
            name: [getattr(manifest, name)[i] for i in kept]
            for name in ("paths", "sizes", "checksums")
            if getattr(manifest, name) is not None
        }
        return replace(manifest, labels=None, **columns)

    def of(self, name: str) -> tuple[dict, list[dict]]:
        """Returns the entry of the image with this file name, and the entries of its objects except crowds."""
        image = self.images[name]
        return image, [entry for entry in self.objects[image["id"]] if not entry["iscrowd"]]

    def truth(self, left_out: Container[str] = ()) -> list[dict]:
        """Returns all objects, including crowds, with encoded masks and areas: pycocotools' ground truth.

        Args:
            left_out: file names of images whose objects are left out.
        """
        found = []
        for name, image in self.images.items():
            for entry in self.objects[image["id"]] if name not in left_out else ():
                mask = encode(entry["segmentation"], (image["height"], image["width"]))
                area = float(_mask_library().area(mask)) if entry["area"] is None else entry["area"]
                found.append(entry | {"segmentation": mask, "area": area})
        return found

    def target(self, name: str, cut: Cut, flip: bool, size: tuple[int, int]) -> dict[str, Tensor]:
        """Returns the objects that a sample shows, at their places in the sample.

        A box is clipped to the sample. If the window cuts the object itself, its box becomes the box of the visible
        part. Objects without a visible pixel are dropped.

        Args:
            name: file name of the image.
            cut: the part of the image that the sample shows.
            flip: True flips the sample left to right.
            size: (H, W) of the sample.

        Returns: "boxes" (N, 4) float32, x and y of two corners in pixels; "labels" (N,) int64 from 1 on; "masks"
            (N, H, W) uint8 of 0 and 1.
        """
        image, objects = self.of(name)
        labels = {category: label for label, category in enumerate(self.categories, 1)}
        rows, columns = sources(cut, flip, size)
        edge = torch.tensor([cut.resized[1], cut.resized[0]], dtype=torch.float64)
        found: dict[str, list] = {"boxes": [], "labels": [], "masks": []}
        for entry in objects:
            whole = decode(entry["segmentation"], (image["height"], image["width"]))
            y, x = _visible(np.any(whole, 1), rows), _visible(np.any(whole, 0), columns)
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
                across, down = extent(np.any(part, 0)), extent(np.any(part, 1))
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
    """Returns the slice from the first to the last True of (N,) bool; an empty slice if there is no True."""
    true = np.flatnonzero(line)
    return slice(int(true[0]), int(true[-1]) + 1) if len(true) else slice(0, 0)


def _visible(occupied: np.ndarray, lines: np.ndarray) -> slice:
    """Returns the rows (or columns) of a sample that show an object.

    Args:
        occupied: (H,) bool, True for rows of the image with a pixel of the object.
        lines: row of the image that each row of the sample shows; -1 = padding.
    """
    return extent(np.asarray(np.append(occupied, False)[lines]))  # -1 is the appended False


def sources(cut: Cut, flip: bool, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Maps each row and column of a sample to the nearest row and column of the image; -1 = padding.

    Args:
        cut: the part of the image that the sample shows.
        flip: True flips the sample left to right.
        size: (H, W) of the sample.

    Returns: rows (H,) int64 and columns (W,) int64.
    """
    found = places(cut, flip, size)
    if found is None:
        rows, columns = map(np.arange, size)
        found = rows, columns[::-1] if flip else columns

    def nearest(place: np.ndarray, start: int, full: int, resized: int) -> np.ndarray:
        return np.where(place < 0, -1, start + (2 * place + 1) * full // (2 * resized))

    (rows, columns), (top, left, height, width) = found, cut.window
    return nearest(rows, top, height, cut.resized[0]), nearest(columns, left, width, cut.resized[1])


def decode(mask: Segmentation, size: tuple[int, int]) -> np.ndarray:
    """Returns the mask of an object as (H, W) uint8 of 0 and 1."""
    return _mask_library().decode(encode(mask, size))


def encode(mask: Segmentation, size: tuple[int, int]) -> dict[str, Any]:
    """Returns the mask of an object in pycocotools' compressed run-length encoding."""
    coco = _mask_library()
    if isinstance(mask, list):
        return coco.merge(coco.frPyObjects([polygon.tolist() for polygon in mask], *size))
    if isinstance(mask["counts"], np.ndarray):
        return coco.frPyObjects(mask | {"counts": mask["counts"].tolist()}, *size)
    return mask


def _mask_library() -> Any:
    """Returns the module pycocotools.mask, whose types are incomplete."""
    from pycocotools import mask

    return mask


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    """Replaces lists of numbers by arrays during parsing. Arrays take a quarter of the memory."""
    if isinstance(mask := entry.get("segmentation"), list):
        entry["segmentation"] = [_floats(polygon) for polygon in mask]
    elif isinstance(counts := entry.get("counts"), list):
        entry["counts"] = _floats(counts)
    return entry


def _is_coordinate(value: Any) -> bool:
    return isinstance(value, int | float) and -_MAX_PIXELS <= value <= _MAX_PIXELS


def _floats(values: Any) -> np.ndarray | None:
    """Returns a list of numbers as (N,) float64; None for any other value."""
    if not isinstance(values, list):
        return None
    try:
        found = np.asarray(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.ndim == 1 else None


def segmentation(mask: Any, size: tuple[int, int]) -> Segmentation:
    """Checks the segmentation of an object, after `_compact`.

    Args:
        mask: polygons or a run-length encoding.
        size: (height, width) of the image.

    Raises:
        ValueError: `mask` does not fit the image, or its outline would take too long to draw.
    """
    if not mask:
        raise ValueError("no segmentation: Mask R-CNN needs polygons or a run-length encoding of every object")
    if isinstance(mask, dict):
        if mask.get("size") != list(size):
            raise ValueError(f"the mask has {_size(mask.get('size'))} pixels, the image {_size(list(size))}")
        return {"size": list(size), "counts": _counts(mask.get("counts"), size)}
    height, width = size
    expected = f"expected x, y, x, y, ... within an image of {height} x {width} pixels"
    if not isinstance(mask, list):
        raise ValueError(f"segmentation: {expected}, got {short(mask)}")
    if any(polygon is None for polygon in mask):
        raise ValueError(f"segmentation: {expected}, got a value that is no number")
    mask = [polygon for polygon in mask if len(polygon) >= 6]  # fewer than 3 points have no area
    if not mask:
        raise ValueError("no segmentation: Mask R-CNN needs polygons or a run-length encoding of every object")
    reach, outline = 2 * max(size), 0.0
    for polygon in mask:
        if len(polygon) % 2 or not (-reach <= polygon.min() and polygon.max() <= reach):
            raise ValueError(f"segmentation: {expected}")
        if len(polygon) * 2 * reach > _MAX_OUTLINE / len(mask):  # shorter polygons cannot exceed the limit
            points = polygon.reshape(-1, 2)
            outline += np.abs(points - np.roll(points, 1, axis=0)).sum()
    if outline > _MAX_OUTLINE or len(mask) > _MAX_POLYGONS:
        raise ValueError(
            f"segmentation: expected at most {_MAX_POLYGONS} polygons of {_MAX_OUTLINE} pixels around, got {len(mask)} "
            f"of {outline:.0f}; give a run-length encoding instead"
        )
    return mask


def _size(size: Any) -> str:
    return " x ".join(map(short, size[:2])) if isinstance(size, list) else short(size)


def _counts(counts: Any, size: tuple[int, int]) -> np.ndarray | bytes:
    """Returns the checked runs of a COCO run-length encoding: int64 numbers, or compressed text as bytes.

    Args:
        counts: (N,) float64 runs, or COCO's compressed text.
        size: height and width of the image.

    Raises:
        ValueError: the runs do not add up to the image's pixels.
    """
    runs = _uncompressed(counts) if isinstance(counts, str) else counts
    expected = f"segmentation: expected runs that make up the image's {size[0] * size[1]} pixels"
    if not (isinstance(runs, np.ndarray) and len(runs) and bool(((runs >= 0) & (runs == np.floor(runs))).all())):
        raise ValueError(f"{expected}, got something else")
    if runs.sum() != size[0] * size[1]:
        raise ValueError(f"{expected}, got runs of {runs.sum():.0f}")
    return counts.encode("ascii") if isinstance(counts, str) else runs.astype(np.int64)


def _uncompressed(text: str) -> np.ndarray | None:
    """Returns the runs in COCO's compressed text as (N,) float64; None if the text is damaged.

    A character holds 5 bits of a number, low bits first. From the fourth number on, the text holds the difference to
    the number two places before. Source: rleFrString in maskApi.c (cocodataset/cocoapi).
    """
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    if not len(ends) or ends[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() > 63:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        return None
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    values -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values.astype(np.float64)
