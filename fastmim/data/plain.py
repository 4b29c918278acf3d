"""The plain loader: decodes and resizes with Pillow in threads. The reference for every faster loader.

May import config, tokens and fastmim_kernels.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fastmim_kernels.philox import uniform

from .. import config
from ..tokens import Crop, Stream, sample_index
from .crops import CenterCrop
from .manifest import Manifest

_MODES = {1: "L", 3: "RGB"}
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# By content, whatever the name: Pillow would otherwise hand a PostScript file called x.jpg to an interpreter.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# What Pillow raises for damaged files, as found by damaging files of every format.
_DECODER_ERRORS = (
    ArithmeticError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


class ImageError(ValueError):
    """An image file that cannot be used; the message names it and the cause."""


class PlainLoader:
    """Loads samples as uint8 images: decode, turn by the EXIF orientation, crop, resize, flip.

    Use it as a context manager, or `close` it: it owns threads.
    """

    def __init__(self, manifest: Manifest, data: config.Data, seed: int, workers: int, prefetch: int):
        """
        Args:
            seed: of crop windows and flips, 0 <= seed < 2**64.
            workers: threads; 0 = this process's share of the CPU cores.
            prefetch: batches that `batches` decodes ahead of the one it hands out.
        Raises:
            ValueError: a number of channels other than 1 or 3, or a negative count.
        """
        if len(data.mean) not in _MODES:
            raise ValueError(
                f"the plain loader makes images of 3 channels (RGB) or 1 (grayscale), as that is what image files "
                f"decode to; data.mean has {len(data.mean)}"
            )
        if workers < 0 or prefetch < 0:
            raise ValueError(f"workers and prefetch must not be negative, got {workers} and {prefetch}")
        self._manifest = manifest
        self._data = data
        self._seed = seed
        self._prefetch = prefetch
        self._workers = workers or _share_of_cores()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="fastmim-decode")

    def load(self, ids: Tensor) -> Tensor:
        """The training samples `ids`, (B,) int64: (B, H, W, C) uint8, contiguous.

        Raises:
            ImageError: a file cannot be decoded.
        """
        return _result(*self._submit_training(ids))

    def held_out(self, indices: Tensor) -> Tensor:
        """The images at `indices` of the manifest, (B,) int64, centre crop, no flip: (B, H, W, C) uint8, contiguous.

        Raises:
            ImageError: a file cannot be decoded.
        """
        crop = CenterCrop(interpolation=self._data.crop.interpolation)
        return _result(*self._submit(indices, crop, [[]] * len(indices), [False] * len(indices)))

    def batches(self, stream: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """`load` for every ids of `stream`, in order, decoded ahead: (images, ids) pairs.

        While the caller has one batch, the next `prefetch` are decoded or waiting in memory, and no more.

        Raises:
            ImageError: a file cannot be decoded; raised in place of its batch.
        """
        pending: deque[tuple[Tensor, Tensor, list[Future]]] = deque()
        try:
            for ids in stream:
                pending.append((ids, *self._submit_training(ids)))
                if len(pending) > self._prefetch:
                    ids, images, futures = pending[0]
                    yield _result(images, futures), ids
                    pending.popleft()
            while pending:
                ids, images, futures = pending[0]
                yield _result(images, futures), ids
                pending.popleft()
        finally:
            for _, _, futures in pending:
                for future in futures:
                    future.cancel()

    def describe(self) -> str:
        """What decodes, in words."""
        return f"Pillow, {self._workers} threads, {self._prefetch} micro-batches ahead"

    def close(self) -> None:
        """Drops what is waiting, waits for the images being decoded, ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> PlainLoader:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _submit_training(self, ids: Tensor) -> tuple[Tensor, list[Future]]:
        crop = self._data.crop
        uniforms = uniform(self._seed, Stream.CROP, ids, crop.draws)
        flips = uniform(self._seed, Stream.FLIP, ids, 1)[:, 0] < self._data.flip
        return self._submit(sample_index(ids), crop, uniforms.tolist(), flips.tolist())

    def _submit(
        self, indices: Tensor, crop: Crop, uniforms: list[list[float]], flips: list[bool]
    ) -> tuple[Tensor, list[Future]]:
        images = torch.empty((len(indices), *self._data.size, len(self._data.mean)), dtype=torch.uint8)
        jobs = zip(indices.tolist(), uniforms, flips, images.numpy(), strict=True)
        return images, [self._pool.submit(self._fill, crop, *job) for job in jobs]

    def _fill(self, crop: Crop, index: int, uniforms: list[float], flip: bool, out: np.ndarray) -> None:
        path = self._manifest.path(index)
        try:
            image = _sample(path, _MODES[len(self._data.mean)], crop, self._data.size, uniforms)
        except _DECODER_ERRORS as error:
            raise ImageError(f"cannot use the image {path!r} (index {index}): {error}") from error
        pixels = np.asarray(image).reshape(out.shape)
        out[:] = pixels[:, ::-1] if flip else pixels


def _sample(path: str, mode: str, crop: Crop, size: tuple[int, int], uniforms: list[float]) -> Image.Image:
    """Decodes, turns, crops and resizes one file: torchvision's `crop` then `resize` of the image in `mode`."""
    with Image.open(path, formats=_FORMATS) as image:
        ImageOps.exif_transpose(image, in_place=True)
        top, left, height, width = crop.window((image.height, image.width), size, uniforms)
        image = _convert(image.crop((left, top, left + width, top + height)), mode)
    # Not `resize(box=...)`: its filter would read pixels outside of the window.
    return image.resize((size[1], size[0]), _FILTERS[crop.interpolation])


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """The image in `mode`; transparency is dropped, 16-bit samples keep their high byte."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"32-bit samples (Pillow's mode {image.mode}) have no defined range to bring to 8 bits")
    return image if image.mode == mode else image.convert(mode)


def _result(images: Tensor, futures: list[Future]) -> Tensor:
    for future in futures:
        future.result()
    return images


def _share_of_cores() -> int:
    # torchrun's name, DeepSpeed's, and that of a run started by hand, which is then taken to be on one machine.
    names = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE")
    processes = next((int(os.environ[name]) for name in names if os.environ.get(name)), 1)
    return max(1, len(os.sched_getaffinity(0)) // processes)
