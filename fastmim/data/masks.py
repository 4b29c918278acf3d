"""Masks: the labels of the pixels of images, cut, placed and flipped as the images are.

May import config, segmentation, tokens and fastmim_kernels.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastmim_kernels.reader import File, parse_header, xxh64

from ..segmentation import IGNORED
from ..tokens import Cut
from .ahead import Ahead
from .crops import fitting
from .decode import ERRORS, FILTERS, MODES, decode_window, places, seen_size
from .loader import Loader
from .manifest import Manifest
from .quarantine import BadFilesError

_NAMED = 3


class Masks:
    """The masks of a manifest's images: files of the same names, extensions apart, below a folder."""

    def __init__(self, images: Manifest, folder: str, classes: int, reduce_zero_label: bool = False):
        """
        Args:
            classes: how many; in the files they are 0, 1, ..., with `reduce_zero_label` 1, 2, ...
        Raises:
            ValueError: an image has no mask, or more than one.
        """
        self.images, self.manifest = images, Manifest.scan(folder)
        self._classes, self._reduce = classes, reduce_zero_label
        found: dict[str, list[int]] = {}
        for i, path in enumerate(self.manifest.paths):
            found.setdefault(os.path.splitext(path)[0], []).append(i)
        of_images = [found.get(os.path.splitext(path)[0], []) for path in images.paths]
        problems = [
            f"{path} has {len(masks) or 'none'}" for path, masks in zip(images.paths, of_images, strict=True)
            if len(masks) != 1
        ]  # fmt: skip
        if problems:
            more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
            raise ValueError(
                f"{folder}: expected one mask for each image in {images.root}, of the same name below the folder; "
                f"{', '.join(problems[:_NAMED])}{more}"
            )
        self._index = [masks[0] for masks in of_images]

    def read(self, index: int) -> np.ndarray:
        """The labels of image `index`: (H, W) uint8, `IGNORED` where there is none.

        Raises:
            BadFilesError: the mask cannot be read, or is not of 8 bits and one channel, or has a label of no class.
        """
        path = self.manifest.path(self._index[index])
        try:
            with Image.open(path) as image:
                mode, labels = image.mode, np.array(image)
        except ERRORS as error:
            raise BadFilesError(f"the mask {path!r} cannot be read: {error}") from error
        if mode not in ("L", "P"):
            raise BadFilesError(
                f"the mask {path!r}: expected one channel of 8 bits, gray or with a palette, whose values are classes, "
                f"got Pillow's mode {mode}"
            )
        if self._reduce:
            labels = np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - np.uint8(1))
        unknown = labels[(labels >= self._classes) & (labels != IGNORED)]
        if len(unknown):
            raise BadFilesError(
                f"the mask {path!r} has {int(unknown[0]) + self._reduce}, expected one of {self._classes} classes "
                f"({int(self._reduce)} .. {self._classes - 1 + self._reduce}) or {IGNORED}: set data.classes and "
                "data.reduce_zero_label"
            )
        return labels

    def compare(self, index: int, mask: tuple[int, int], image: tuple[int, int]) -> None:
        """
        Raises:
            BadFilesError: an image and its mask are not of the same (height, width).
        """
        if mask != image:
            sizes = (f"{width}x{height}" for height, width in (mask, image))
            words = f"is {next(sizes)} pixels, its image {self.images.path(index)!r} is {next(sizes)}"
            raise BadFilesError(
                f"the mask {self.manifest.path(self._index[index])!r} {words}: they must be of one size"
            )


def cut_labels(labels: np.ndarray, cut: Cut, flip: bool, size: tuple[int, int]) -> np.ndarray:
    """The labels of a sample of `size` that is so cut from the image: each that of the nearest pixel; padding has none.

    Args:
        labels: (H, W) uint8 of the whole image.
    """
    top, left, height, width = cut.window
    window = Image.fromarray(labels[top : top + height, left : left + width])
    resized = np.asarray(window.resize(cut.resized[::-1], Image.Resampling.NEAREST))
    if (shown := places(cut, flip, size)) is None:
        return resized[:, ::-1] if flip else resized
    rows, columns = shown
    sample = resized[np.ix_(rows, columns)]
    if cut.padded:
        sample[rows < 0], sample[:, columns < 0] = IGNORED, IGNORED
    return sample


class MaskLoader:
    """Loads masks beside images, in threads of its own: `close` it."""

    def __init__(self, masks: Masks, loader: Loader, size: tuple[int, int], threads: int):
        """
        Args:
            loader: of the images; not closed with this one.
            size: (H, W) of a sample.
        """
        self._masks, self._loader, self._size = masks, loader, size
        self._ahead = Ahead(loader, self._cut, lambda index, made, size: masks.compare(index, made[0], size), threads)

    def batches(self, stream: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The training samples of every ids of `stream`, in order, as `Ahead.batches`.

        Returns: images, ids, and labels (B, H, W) uint8 on the CPU.
        Raises:
            BadFilesError: as `Loader.load`.
        """
        with contextlib.closing(self._ahead.batches(stream)) as batches:
            for loaded, found in batches:
                yield loaded.images, loaded.ids, torch.from_numpy(np.stack([labels for _, labels in found]))

    def close(self) -> None:
        """As `Ahead.close`."""
        self._ahead.close()

    def _cut(self, index: int, sample: Tensor) -> tuple[tuple[int, int], np.ndarray]:
        """Size of the mask of an image, and the labels of a sample of it."""
        labels = self._masks.read(index)
        ((cut, flip),) = self._loader.cuts(sample[None], [labels.shape])
        return labels.shape, cut_labels(labels, cut, flip, self._size)


def whole_images(
    masks: Masks,
    indices: Sequence[int],
    size: tuple[int, int],
    fit: str,
    interpolation: str,
    channels: int,
    threads: int,
) -> Iterator[tuple[Tensor, Tensor] | BadFilesError]:
    """Whole images, resized in proportion, and their labels, `threads` ahead.

    Args:
        size: (H, W) that the image fits into, with `fit` = "inside", or covers, as `ScaleJitterCrop` has it.
        interpolation: "bicubic" or "bilinear", antialiased.
        channels: 3 (RGB) or 1 (grayscale).
    Yields: (h, w, C) uint8, and (H, W) uint8 of the size of the file; or why an image or its mask cannot be used, in
        the order of the indices.
    """

    def load(index: int) -> tuple[Tensor, Tensor] | BadFilesError:
        try:
            return pair(index)
        except BadFilesError as error:
            return error

    def pair(index: int) -> tuple[Tensor, Tensor]:
        image, labels = _decode(masks.images, index, MODES[channels]), masks.read(index)
        masks.compare(index, labels.shape, (image.height, image.width))
        factor = fitting(labels.shape, size, fit)
        resized = tuple(max(1, round(side * factor)) for side in labels.shape)
        pixels = np.array(image.resize(resized[::-1], FILTERS[interpolation])).reshape(*resized, channels)
        return torch.from_numpy(pixels), torch.from_numpy(labels)

    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="fastmim-masks") as pool:
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


def _decode(manifest: Manifest, index: int, mode: str) -> Image.Image:
    """
    Raises:
        BadFilesError: it gives no picture, or is not the file that was listed.
    """
    path = manifest.path(index)
    try:
        data = Path(path).read_bytes()
        header, error = parse_header(data)
        if error := error or manifest.difference(index, len(data), xxh64(data) if manifest.checksums else None):
            raise ValueError(error)
        file = File(path, np.frombuffer(data, dtype=np.uint8), header, None, None)
        return decode_window(file, (0, 0, *seen_size(file)), mode)
    except ERRORS as error:
        raise BadFilesError(f"the test image {path!r} cannot be used: {error}") from error
