"""Masks: the labels of the pixels of images, cut, placed and flipped as the images are.

May import config, segmentation, tokens, image and fastmim_kernels.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastmim_kernels.reader import File

from ..config.segment import IGNORED
from ..host.terminal import shown
from ..parts import Cut
from .ahead import Ahead
from .away import DataAwayError, Patience
from .crops import fitting
from .decode import FILTERS, MODES, decode_window, places
from .image import DEFAULT_LIMITS, Limits, decode_upright, read_image, reserved, seen_size
from .loader import Loader
from .manifest import Manifest
from .quarantine import BadFilesError

_NAMED = 3


class Masks:
    """The masks of a manifest's images: files of the same names, extensions apart, below a folder."""

    def __init__(
        self,
        images: Manifest,
        folder: str,
        classes: int,
        reduce_zero_label: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ):
        """
        Args:
            classes: how many; in the files they are 0, 1, ..., with `reduce_zero_label` 1, 2, ...
            limits: of decoding a mask, and an image in `whole_images`.
        Raises:
            ValueError: an image has no mask, or more than one.
        """
        self.images, self.manifest, self.limits = images, Manifest.scan(folder), limits
        self._classes, self._reduce = classes, reduce_zero_label
        found: dict[str, list[int]] = {}
        for i, path in enumerate(self.manifest.paths):
            found.setdefault(os.path.splitext(path)[0], []).append(i)
        of_images = [found.get(os.path.splitext(path)[0], []) for path in images.paths]
        problems = [
            f"{shown(path)} has {len(masks) or 'none'}" for path, masks in zip(images.paths, of_images, strict=True)
            if len(masks) != 1
        ]  # fmt: skip
        if problems:
            more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
            raise ValueError(
                f"{shown(folder)}: expected one mask for each image in {shown(images.root)}, of the same name below "
                f"the folder; {', '.join(problems[:_NAMED])}{more}"
            )
        self._index = [masks[0] for masks in of_images]
        self._files, self.image_files = patient(self.manifest, limits), patient(images, limits)

    def read(self, index: int) -> np.ndarray:
        """The labels of image `index`: (H, W) uint8, `IGNORED` where there is none.

        Raises:
            BadFilesError: the mask cannot be read, or is not of 8 bits and one channel, or has a label of no class.
            DataAwayError: the folder is away.
        """
        path = self.manifest.path(self._index[index])
        file = self._files.read(self._index[index])
        try:
            with reserved(self.limits, file):
                image = decode_upright(file)
                mode, labels = image.mode, np.array(image)
        except ValueError as error:
            raise BadFilesError(f"the mask '{shown(path)}' cannot be read: {error}") from error
        if mode not in ("L", "P"):
            raise BadFilesError(
                f"the mask '{shown(path)}': expected one channel of 8 bits, gray or with a palette, whose values are "
                f"classes, got Pillow's mode {mode}"
            )
        if self._reduce:
            labels = np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - np.uint8(1))
        unknown = labels[(labels >= self._classes) & (labels != IGNORED)]
        if len(unknown):
            raise BadFilesError(
                f"the mask '{shown(path)}' has {int(unknown[0]) + self._reduce}, expected one of {self._classes} "
                f"classes ({int(self._reduce)} .. {self._classes - 1 + self._reduce}) or {IGNORED}: set data.classes "
                "and data.reduce_zero_label"
            )
        return labels

    def compare(self, index: int, mask: tuple[int, int], image: tuple[int, int]) -> None:
        """
        Raises:
            BadFilesError: an image and its mask are not of the same (height, width).
        """
        if mask != image:
            sizes = (f"{width}x{height}" for height, width in (mask, image))
            words = f"is {next(sizes)} pixels, its image '{shown(self.images.path(index))}' is {next(sizes)}"
            raise BadFilesError(
                f"the mask '{shown(self.manifest.path(self._index[index]))}' {words}: they must be of one size"
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
        except DataAwayError:
            raise
        except BadFilesError as error:
            return error

    def pair(index: int) -> tuple[Tensor, Tensor]:
        image, labels = _decode(masks, index, MODES[channels]), masks.read(index)
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


def patient(manifest: Manifest, limits: Limits) -> Patience:
    """Returns what reads single files of a manifest, and waits for them."""

    def read(indices: list[int]) -> list[File]:
        paths = map(manifest.path, indices)
        return list(map(partial(read_image, limits=limits), paths))

    return Patience(manifest, read, limits.file_bytes)


def _decode(masks: Masks, index: int, mode: str) -> Image.Image:
    """
    Raises:
        BadFilesError: it gives no picture, or is not the file that was listed.
        DataAwayError: the folder is away.
    """
    manifest = masks.images
    file = masks.image_files.read(index)
    try:
        checksum = file.checksum if manifest.checksums else None
        if error := file.error or manifest.difference(index, len(file.data), checksum):
            raise ValueError(error)
        with reserved(masks.limits, file):
            return decode_window(file, (0, 0, *seen_size(file)), mode).convert(mode)
    except ValueError as error:
        raise BadFilesError(f"the test image '{shown(file.path)}' cannot be used: {error}") from error
