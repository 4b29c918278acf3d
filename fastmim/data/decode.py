"""Decoders: the interface of a decoder, and the Pillow decoder, which defines the correct pixels."""

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
from .image import DEFAULT_LIMITS, Limits, decode_upright, readable_header, reserved

MODES = {1: "L", 3: "RGB"}
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
Change = Callable[[Image.Image], Image.Image]


class Job(NamedTuple):
    """A sample to decode: a file, the part of its image to show, and the changes after that."""

    file: File
    """The file. Its header was read without an error."""
    cut: Cut
    flip: bool
    changes: Sequence[Change] = ()
    """Changes of the sample after crop and flip, in this order. Images have 8 bits a channel."""
    fill: tuple[int, ...] = ()
    """Colour of padding, one number for each channel."""

    def places(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns `decode.places` of this cut and flip."""
        return places(self.cut, self.flip, size)

    def pad(self, sample: np.ndarray, places: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Paints the padding of a sample, (H, W, C) uint8, in place."""
        if self.cut.padded and places is not None:
            for axis, shown in enumerate(places):
                sample.swapaxes(0, axis)[shown < 0] = self.fill


def places(cut: Cut, flip: bool, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Maps each row and column of a sample to the row and column of the resized window.

    Padding stays at the bottom and on the right: a flip moves only the image.

    Args:
        cut: the part of the image that the sample shows.
        flip: True flips the sample left to right.
        size: (H, W) of the sample.

    Returns: rows (H,) int64 and columns (W,) int64, -1 for padding. None if the sample is the whole resized window,
        flipped or not.
    """
    if cut.resized == size and cut.offset == (0, 0):
        return None
    if not cut.padded:
        rows, columns = (_reflected(*axis) for axis in zip(cut.offset, size, cut.resized, strict=True))
        return rows, columns[::-1] if flip else columns
    rows, columns = (np.arange(part) for part in size)
    height, width = cut.resized
    columns = np.where(columns < width, width - 1 - columns if flip else columns, -1)
    return np.where(rows < height, rows, -1), columns


def _reflected(start: int, count: int, length: int) -> np.ndarray:
    """Maps the positions start ... start + count - 1 into 0 ... length - 1 by reflection at both edges."""
    period = max(1, 2 * (length - 1))
    places = np.arange(start, start + count) % period
    return np.minimum(places, period - places)


class PendingBatch(ABC):
    """A batch that is being decoded."""

    @abstractmethod
    def result(self) -> tuple[Tensor, dict[int, str]]:
        """Waits for the batch.

        Returns: (B, H, W, C) uint8, contiguous; and the reason for each file that cannot be decoded, by row. Such rows
            are undefined.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Cancels images that no thread has begun to decode."""


class ImageDecoder(ABC):
    """A decoder that turns jobs into samples in its own threads."""

    @abstractmethod
    def start(self, jobs: list[Job]) -> PendingBatch:
        """Starts to decode a batch, and returns without waiting."""

    @abstractmethod
    def describe(self) -> str:
        """Returns a description of the decoder for people."""

    @abstractmethod
    def close(self) -> None:
        """Cancels images that no thread has begun, waits for the others, and ends the threads."""


class PillowDecoder(ImageDecoder):
    """A decoder that uses Pillow. Each thread decodes one image at a time.

    The steps: turn by the EXIF orientation, cut out the window, convert, resize, cut out the sample, flip.
    """

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        interpolation: str,
        threads: int,
        pin: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ):
        """Starts the threads.

        Args:
            size: (H, W) of a sample.
            channels: 3 (RGB) or 1 (grayscale).
            interpolation: "bicubic" or "bilinear", antialiased.
            threads: number of threads.
            pin: True returns page-locked memory, from which a GPU copies asynchronously.
            limits: limits on one image. By its header, a file beyond the limits is bad.
        """
        self._shape, self._pin, self._threads, self._limits = (*size, channels), pin, threads, limits
        self._filter = FILTERS[interpolation]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fastmim-decode")

    def start(self, jobs: list[Job]) -> PendingBatch:
        images = torch.empty((len(jobs), *self._shape), dtype=torch.uint8, pin_memory=self._pin)
        rows = zip(jobs, images.numpy(), strict=True)
        return _PillowBatch(images, [self._pool.submit(self._fill, job, row) for job, row in rows])

    def _fill(self, job: Job, out: np.ndarray) -> str | None:
        """Writes one sample; returns None, or the reason why the file cannot be decoded."""
        height, width, channels = self._shape
        try:
            with reserved(self._limits, job.file):
                window = decode_window(job.file, job.cut.window, MODES[channels])
                rows, columns = job.cut.resized
                image = window.resize((columns, rows), self._filter)
                if image.mode != MODES[channels]:
                    image = image.convert(MODES[channels])
                pixels = np.asarray(image).reshape(*job.cut.resized, channels)
        except ValueError as error:
            return str(error)
        if (places := job.places((height, width))) is not None:
            out[:] = pixels[np.ix_(*places)]
        else:
            out[:] = pixels[:, ::-1] if job.flip else pixels
        job.pad(out, places)
        if job.changes:
            image = Image.fromarray(out.squeeze(2) if channels == 1 else out)
            for change in job.changes:
                image = change(image)
            out[:] = np.asarray(image).reshape(out.shape)
            job.pad(out, places)  # again, because the changes may have coloured the padding
        return None

    def describe(self) -> str:
        return f"Pillow, {self._threads} threads"

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class _PillowBatch(PendingBatch):
    def __init__(self, images: Tensor, futures: list[Future]):
        self._images, self._futures = images, futures

    def result(self) -> tuple[Tensor, dict[int, str]]:
        reasons = [future.result() for future in self._futures]
        return self._images, {i: reason for i, reason in enumerate(reasons) if reason is not None}

    def cancel(self) -> None:
        for future in self._futures:
            future.cancel()


def mean_colour(mean: tuple[float, ...]) -> tuple[int, ...]:
    """Returns the 8-bit colour nearest to channel means on the 0..1 scale."""
    return tuple(min(255, max(0, round(255 * m))) for m in mean)


def decode_window(file: File, window: tuple[int, int, int, int], mode: str) -> Image.Image:
    """Decodes a window of the image in a file.

    The window is cut out first, because a resize of the whole image would mix in pixels from outside the window.
    Transparency is dropped. Pixels of more than 8 bits a channel keep their high 8 bits.

    Args:
        file: the file, inside a `reserved` block.
        window: (top, left, height, width) in pixels.
        mode: "RGB" or "L".

    Returns: the window in `mode`. A gray image is returned in "L" even for "RGB", which takes a third of the memory.

    Raises:
        ValueError: the file cannot be decoded; the text is the reason.
    """
    image = decode_upright(file)
    top, left, height, width = window
    if (top, left, height, width) != (0, 0, image.height, image.width):
        image = image.crop((left, top, left + width, top + height))
    return to_8_bits(image, mode, readable_header(file).bits)


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Converts an image to `mode` ("RGB" or "L").

    Raises:
        ValueError: the image has 32 bits a channel.
    """
    return to_8_bits(image, mode, 16).convert(mode)


def to_8_bits(image: Image.Image, mode: str, bits: int) -> Image.Image:
    """Converts an image to 8 bits a channel: a gray image to "L", any other image to `mode`.

    Args:
        image: the image.
        mode: "RGB" or "L".
        bits: bits of each channel in the file. If there are more than 8, the high 8 are kept.

    Raises:
        ValueError: the image has 32 bits a channel.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit samples (Pillow's mode {image.mode}) have no defined range to bring to 8 bits")
    mode = "L" if image.mode in ("1", "L") else mode
    return image if image.mode == mode else image.convert(mode)
