"""Label maps of semantic segmentation, which are cropped, resized and flipped like their images.

A label map holds the class of each pixel.

In settings and data sets, label maps are called masks: `data.masks` and `data.test_masks` name their folders.
Everywhere else in this project, a mask is the set of hidden patches.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config.segment import IGNORED
from ..host.terminal import shown
from ..parts import Cut
from .availability import DataUnavailableError, retrying_reader
from .crops import fitting
from .decode import FILTERS, MODES, decode_window, places
from .image import DEFAULT_LIMITS, Limits, decode_upright, reserved, seen_size
from .loader import Loader
from .manifest import Manifest
from .prefetch import LabelPrefetcher
from .quarantine import BadFilesError

_NAMED = 3


class LabelMaps:
    """The label maps of a manifest's images.

    A label map is a file below a folder. Its path differs from the image's path in the extension only.
    """

    def __init__(
        self,
        images: Manifest,
        folder: str,
        classes: int,
        reduce_zero_label: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ):
        """Finds the label map of each image.

        Args:
            images: the manifest of the images.
            folder: folder or list of the label maps.
            classes: number of classes. Files number the classes 0, 1, ...
            reduce_zero_label: True if files number the classes 1, 2, ... and 0 means no class.
            limits: limits of decoding a label map, and an image in `resized_pairs`.

        Raises:
            ValueError: an image has no label map, or more than one.
        """
        self.images, self.manifest, self.limits = images, Manifest.scan(folder), limits
        self._classes, self._reduce = classes, reduce_zero_label
        found: dict[str, list[int]] = {}
        for i, path in enumerate(self.manifest.paths):
            found.setdefault(os.path.splitext(path)[0], []).append(i)
        of_images = [found.get(os.path.splitext(path)[0], []) for path in images.paths]
        problems = [
            f"{shown(path)} has {len(maps) or 'none'}" for path, maps in zip(images.paths, of_images, strict=True)
            if len(maps) != 1
        ]  # fmt: skip
        if problems:
            more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
            raise ValueError(
                f"{shown(folder)}: expected one label map for each image in {shown(images.root)}, of the same name "
                f"below the folder; {', '.join(problems[:_NAMED])}{more}"
            )
        self._index = [maps[0] for maps in of_images]
        self._reader, self.image_reader = retrying_reader(self.manifest, limits), retrying_reader(images, limits)

    def read(self, index: int) -> np.ndarray:
        """Reads the label map of image `index`.

        Returns: (H, W) uint8; `IGNORED` where a pixel has no class.

        Raises:
            BadFilesError: the file cannot be read, has more than 8 bits or one channel, or holds an unknown class.
            DataUnavailableError: the folder of the label maps cannot be read.
        """
        path = self.manifest.path(self._index[index])
        file = self._reader.read(self._index[index])
        try:
            with reserved(self.limits, file):
                image = decode_upright(file)
                mode, labels = image.mode, np.array(image)
        except ValueError as error:
            raise BadFilesError(f"the label map '{shown(path)}' cannot be read: {error}") from error
        if mode not in ("L", "P"):
            raise BadFilesError(
                f"the label map '{shown(path)}': expected one channel of 8 bits, gray or with a palette, whose values "
                f"are classes, got Pillow's mode {mode}"
            )
        if self._reduce:
            labels = np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - np.uint8(1))
        unknown = labels[(labels >= self._classes) & (labels != IGNORED)]
        if len(unknown):
            raise BadFilesError(
                f"the label map '{shown(path)}' has {int(unknown[0]) + self._reduce}, expected one of {self._classes} "
                f"classes ({int(self._reduce)} .. {self._classes - 1 + self._reduce}) or {IGNORED}: set data.classes "
                "and data.reduce_zero_label"
            )
        return labels

    def check_size(self, index: int, labels: tuple[int, ...], image: tuple[int, ...]) -> None:
        """Checks that image `index` and its label map have the same (height, width).

        Raises:
            BadFilesError: the sizes differ.
        """
        if labels != image:
            sizes = (f"{width}x{height}" for height, width in (labels, image))
            words = f"is {next(sizes)} pixels, its image '{shown(self.images.path(index))}' is {next(sizes)}"
            raise BadFilesError(
                f"the label map '{shown(self.manifest.path(self._index[index]))}' {words}: they must be of one size"
            )


def cut_labels(labels: np.ndarray, cut: Cut, flip: bool, size: tuple[int, int]) -> np.ndarray:
    """Cuts a sample out of a label map with the crop of its image.

    Each pixel takes the label of the nearest pixel.

    Args:
        labels: (H, W) uint8, the label map of the whole image.
        cut: the part of the image that the sample shows.
        flip: True flips the sample left to right.
        size: (height, width) of the sample.

    Returns: (height, width) uint8; `IGNORED` in the padding.
    """
    top, left, height, width = cut.window
    window = Image.fromarray(labels[top : top + height, left : left + width])
    rows, columns = cut.resized
    resized = np.asarray(window.resize((columns, rows), Image.Resampling.NEAREST))
    if (shown_places := places(cut, flip, size)) is None:
        return resized[:, ::-1] if flip else resized
    rows, columns = shown_places
    sample = resized[np.ix_(rows, columns)]
    if cut.padded:
        sample[rows < 0], sample[:, columns < 0] = IGNORED, IGNORED
    return sample


class LabelMapLoader:
    """A loader of images with their label maps. It owns threads: call `close` at the end."""

    def __init__(self, label_maps: LabelMaps, loader: Loader, size: tuple[int, int], threads: int):
        """Starts the threads.

        Args:
            label_maps: label maps of the images.
            loader: loads the images. `close` does not close this loader.
            size: (H, W) of a sample.
            threads: number of threads that read label maps.
        """
        self._label_maps, self._loader, self._size = label_maps, loader, size
        self._prefetcher = LabelPrefetcher(
            loader, self._cut, lambda index, made, size: label_maps.check_size(index, made[0], size), threads
        )

    def batches(self, stream: Iterable[Tensor]) -> Generator[tuple[Tensor, Tensor, Tensor]]:
        """Yields the batch of each ids tensor of `stream`, in order.

        Yields: images (B, H, W, C) uint8; ids (B,) int64; labels (B, H, W) uint8 on the CPU.

        Raises:
            BadFilesError: an image and all images that could replace it are bad.
        """
        with contextlib.closing(self._prefetcher.batches(stream)) as batches:
            for batch, made in batches:
                yield batch.images, batch.ids, torch.from_numpy(np.stack([labels for _, labels in made]))

    def close(self) -> None:
        """Ends the threads, see `LabelPrefetcher.close`."""
        self._prefetcher.close()

    def _cut(self, index: int, sample: Tensor) -> tuple[tuple[int, int], np.ndarray]:
        """Returns the (height, width) of a whole label map, and the labels of one sample."""
        labels = self._label_maps.read(index)
        height, width = labels.shape
        ((cut, flip),) = self._loader.cuts(sample[None], [(height, width)])
        return (height, width), cut_labels(labels, cut, flip, self._size)


def resized_pairs(
    label_maps: LabelMaps,
    indices: Sequence[int],
    size: tuple[int, int],
    fit: Literal["inside", "cover"],
    interpolation: str,
    channels: int,
    threads: int,
) -> Iterator[tuple[Tensor, Tensor] | BadFilesError]:
    """Yields whole images, resized in proportion, with their label maps.

    Args:
        label_maps: label maps, with the manifest of their images.
        indices: index of each image.
        size: (H, W) that the resized image fits inside or covers.
        fit: "inside" or "cover", see `ScaleJitterCrop.fit`.
        interpolation: "bicubic" or "bilinear", antialiased.
        channels: 3 (RGB) or 1 (grayscale).
        threads: number of threads, and of images that are decoded ahead.

    Yields: in the order of `indices`, the resized image (h, w, C) uint8 and the label map (H, W) uint8 in the size of
        its file. If an image or its label map cannot be used: a BadFilesError that says why.
    """

    def load(index: int) -> tuple[Tensor, Tensor] | BadFilesError:
        try:
            return pair(index)
        except DataUnavailableError:
            raise
        except BadFilesError as error:
            return error

    def pair(index: int) -> tuple[Tensor, Tensor]:
        image, labels = _decode(label_maps, index, MODES[channels]), label_maps.read(index)
        height, width = labels.shape
        label_maps.check_size(index, (height, width), (image.height, image.width))
        factor = fitting((height, width), size, fit)
        height, width = max(1, round(height * factor)), max(1, round(width * factor))
        pixels = np.array(image.resize((width, height), FILTERS[interpolation])).reshape(height, width, channels)
        return torch.from_numpy(pixels), torch.from_numpy(labels)

    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="fastmim-label-maps") as pool:
        try:
            for index in indices:
                waiting.append(pool.submit(load, index))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode(label_maps: LabelMaps, index: int, mode: str) -> Image.Image:
    """Decodes a whole test image.

    Raises:
        BadFilesError: the file cannot be decoded, or has changed since it was listed.
        DataUnavailableError: the folder of the images cannot be read.
    """
    manifest = label_maps.images
    file = label_maps.image_reader.read(index)
    try:
        checksum = file.checksum if manifest.checksums else None
        if error := file.error or manifest.difference(index, len(file.data), checksum):
            raise ValueError(error)
        with reserved(label_maps.limits, file):
            return decode_window(file, (0, 0, *seen_size(file)), mode).convert(mode)
    except ValueError as error:
        raise BadFilesError(f"the test image '{shown(file.path)}' cannot be used: {error}") from error
