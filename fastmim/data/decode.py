"""Decoding: the interface of a decoder, and the decoder on Pillow, which defines the correct pixels.

May import config, tokens, image and fastmim_kernels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastmim_kernels.reader import File

from ..parts import Cut
from .image import DEFAULT_LIMITS, Limits, decode_upright, reserved

MODES = {1: "L", 3: "RGB"}
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
Change = Callable[[Image.Image], Image.Image]


class Job(NamedTuple):
    """One sample to make: a cut of an image, maybe flipped, maybe changed further."""

    file: File
    """Its header is set."""
    cut: Cut
    flip: bool
    changes: Sequence[Change] = ()
    """Further changes to the sample, of 8 bits a channel, in this order."""
    fill: tuple[int, ...] = ()
    """Colour of a padded cut beyond the image, a number a channel."""

    def places(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        """`places` of this cut and flip."""
        return places(self.cut, self.flip, size)

    def pad(self, sample: np.ndarray, places: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Gives padding, if there is any, its colour, in place."""
        if self.cut.padded and places is not None:
            for axis, shown in enumerate(places):
                sample.swapaxes(0, axis)[shown < 0] = self.fill


def places(cut: Cut, flip: bool, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Row and column of the resized window that each row and column of a sample of `size` shows; -1 = padding.

    Padding stays at the bottom and on the right: only what there is of the image is flipped.

    Returns: (H,) and (W,) int64; None if the sample is the resized window, maybe flipped.
    """
    if cut.resized == size and cut.offset == (0, 0):
        return None
    if not cut.padded:
        rows, columns = map(_reflected, cut.offset, size, cut.resized)
        return rows, columns[::-1] if flip else columns
    rows, columns = (np.arange(part) for part in size)
    height, width = cut.resized
    columns = np.where(columns < width, width - 1 - columns if flip else columns, -1)
    return np.where(rows < height, rows, -1), columns


def _reflected(start: int, count: int, length: int) -> np.ndarray:
    """Numbers start, start + 1, ... (`count` of them), as places on a line of `length` pixels between two mirrors."""
    period = max(1, 2 * (length - 1))
    places = np.arange(start, start + count) % period
    return np.minimum(places, period - places)


class Pending(ABC):
    """A batch that is being decoded."""

    @abstractmethod
    def result(self) -> tuple[Tensor, dict[int, str]]:
        """(B, H, W, C) uint8, contiguous; and, by position, why a file cannot be decoded: its row is undefined."""

    @abstractmethod
    def cancel(self) -> None:
        """Drops what has not begun."""


class Decoder(ABC):
    """Turns jobs into samples in threads of its own."""

    @abstractmethod
    def start(self, jobs: list[Job]) -> Pending:
        """Begins with a batch and returns."""

    @abstractmethod
    def describe(self) -> str:
        """Describes the decoder in words."""

    @abstractmethod
    def close(self) -> None:
        """Drops what has not begun, waits for the rest, ends the threads."""


class PillowDecoder(Decoder):
    """Decodes with Pillow, one image a thread: turn by the EXIF orientation, cut the window out, convert, resize,
    cut the sample out, flip."""

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        interpolation: str,
        threads: int,
        pin: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ):
        """
        Args:
            size: (H, W) of a sample.
            channels: 3 (RGB) or 1 (grayscale).
            interpolation: "bicubic" or "bilinear", antialiased.
            pin: whether results lie in page-locked memory, from which copies to a GPU need no waiting.
            limits: files whose headers say that they need more are bad.
        """
        self._shape, self._pin, self._threads, self._limits = (*size, channels), pin, threads, limits
        self._filter = FILTERS[interpolation]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fastmim-decode")

    def start(self, jobs: list[Job]) -> Pending:
        images = torch.empty((len(jobs), *self._shape), dtype=torch.uint8, pin_memory=self._pin)
        return _Batch(images, [self._pool.submit(self._fill, *item) for item in zip(jobs, images.numpy(), strict=True)])

    def _fill(self, job: Job, out: np.ndarray) -> str | None:
        """Writes one sample; returns why it cannot."""
        *size, channels = self._shape
        try:
            with reserved(self._limits, job.file):
                window = decode_window(job.file, job.cut.window, MODES[channels])
                image = window.resize(job.cut.resized[::-1], self._filter)
                if image.mode != MODES[channels]:
                    image = image.convert(MODES[channels])
                pixels = np.asarray(image).reshape(*job.cut.resized, channels)
        except ValueError as error:
            return str(error)
        if (places := job.places(tuple(size))) is not None:
            out[:] = pixels[np.ix_(*places)]
        else:
            out[:] = pixels[:, ::-1] if job.flip else pixels
        job.pad(out, places)
        if job.changes:
            image = Image.fromarray(out.squeeze(2) if channels == 1 else out)
            for change in job.changes:
                image = change(image)
            out[:] = np.asarray(image).reshape(out.shape)
            job.pad(out, places)  # whatever the changes made of it
        return None

    def describe(self) -> str:
        return f"Pillow, {self._threads} threads"

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Batch(Pending):
    def __init__(self, images: Tensor, futures: list[Future]):
        self._images, self._futures = images, futures

    def result(self) -> tuple[Tensor, dict[int, str]]:
        reasons = [future.result() for future in self._futures]
        return self._images, {i: reason for i, reason in enumerate(reasons) if reason is not None}

    def cancel(self) -> None:
        for future in self._futures:
            future.cancel()


def mean_colour(mean: tuple[float, ...]) -> tuple[int, ...]:
    """Channel means on the 0..1 scale as the nearest colour of 8 bits."""
    return tuple(min(255, max(0, round(255 * m))) for m in mean)


def decode_window(file: File, window: tuple[int, int, int, int], mode: str) -> Image.Image:
    """Decodes a window of a file's image, with exactly the pixels that the whole image has there.

    Cutting before resizing is part of the definition: a resize of the whole image would read beyond the window.
    Transparency is dropped. Samples of more than 8 bits keep their high bits.

    Args:
        file: for which memory is `reserved`.
        window: (top, left, height, width) in pixels.
        mode: "RGB" or "L".

    Returns: the window in `mode`; in "L" also if `mode` is "RGB" and the image is gray, for a third of the memory.

    Raises:
        ValueError: the file cannot be decoded; the text is the reason.
    """
    image = decode_upright(file)
    top, left, height, width = window
    if (top, left, height, width) != (0, 0, image.height, image.width):
        image = image.crop((left, top, left + width, top + height))
    return to_8_bits(image, mode, file.header.bits)


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Returns an image in `mode` ("RGB" or "L"), see `decode_window`.

    Raises:
        ValueError: 32-bit samples.
    """
    return to_8_bits(image, mode, 16).convert(mode)


def to_8_bits(image: Image.Image, mode: str, bits: int) -> Image.Image:
    """Returns an image in "L" if it is gray, else in `mode`; of samples of `bits` bits, the high 8.

    Raises:
        ValueError: 32-bit samples.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit samples (Pillow's mode {image.mode}) have no defined range to bring to 8 bits")
    mode = "L" if image.mode in ("1", "L") else mode
    return image if image.mode == mode else image.convert(mode)
