"""The loader turns sample ids into batches of uint8 images.

The loader reads and decodes ahead, and replaces bad files.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from fastmim_kernels.philox import uniform
from fastmim_kernels.reader import File, PendingFiles, Reader

from ..config.base import ImageData
from ..host.launcher import share_of_cores
from ..parts import Crop, Cut
from ..samples import Stream, sample_index
from .availability import DataUnavailableError, RetryingReader
from .crops import CenterCrop
from .decode import Change, ImageDecoder, Job, PendingBatch, PillowDecoder, mean_colour
from .image import Limits, refusal, seen_size
from .manifest import Manifest
from .quarantine import BadFilesError, Quarantine

Changes = Callable[[Tensor], list[Sequence[Change]]]
"""Maps (B,) int64 sample ids to the changes of each sample after crop and flip.
The function runs in the caller's thread."""

_Row = TypeVar("_Row")
_PIECE = 32  # files that `headers` reads at once
_READING_THREADS = 4  # these threads mostly wait for a disk or a network, so more cores need no more threads


class Sample(NamedTuple):
    """A sample to make: the image, the crop, and the numbers drawn for the sample."""

    image: int
    """Manifest index."""
    crop: Crop
    uniforms: list[float]
    flip: bool
    changes: Sequence[Change] = ()


class LoadedBatch(NamedTuple):
    """A batch, with all that is needed to crop and flip labels like the images."""

    images: Tensor
    """(B, H, W, C) uint8."""
    ids: Tensor
    """Sample ids, (B,) int64."""
    indices: Tensor
    """Manifest index of each shown image, (B,) int64.
    Differs from the index in the id where a bad file was replaced."""
    sizes: list[tuple[int, int]]
    """(height, width) of each shown image in pixels, after its EXIF orientation."""


class Loader:
    """A loader of samples as uint8 images.

    The loader reads, decodes, turns by the EXIF orientation, crops, resizes and flips.

    Crop windows, flips and other changes are drawn for the sample id. So they stay the same when another image takes
    the place of a bad file. The loader owns threads: use it as a context manager, or call `close`.

    Attributes:
        retrying_reader: reader that tries again if files cannot be read for a while.
    """

    def __init__(
        self,
        manifest: Manifest,
        data: ImageData,
        seed: int,
        decoder: ImageDecoder,
        quarantine: Quarantine,
        pool: Tensor,
        changes: Changes | None = None,
        note: str = "",
    ):
        """Starts the reading threads.

        Args:
            manifest: the images.
            data: size and crop of samples, number of batches to prefetch, and limits on files.
            seed: seed of crop windows and flips, 0 <= seed < 2**64.
            decoder: decodes the images; `close` closes the decoder too.
            quarantine: remembers bad files and chooses the images that replace them.
            pool: (N,) int64, manifest indices of the images that may replace a bad training image.
            changes: draws further changes of each training sample.
            note: remark on the choice of the decoder, for `describe`.
        """
        self._manifest, self._data, self._seed, self._pool = manifest, data, seed, pool
        self._decoder, self._quarantine, self._changes, self._note = decoder, quarantine, changes, note
        self._limits = limits_of(data)
        self._looked_through = bytearray(len(manifest))
        self._reader = Reader(
            _READING_THREADS,
            checksum=manifest.checksums is not None,
            largest=self._limits.file_bytes,
            advice=self._limits.advice,
        )
        self.retrying_reader = RetryingReader(
            manifest, lambda indices: self._read(indices).result(), self._limits.file_bytes
        )

    def load(self, ids: Tensor) -> Tensor:
        """Loads one batch of training samples.

        Args:
            ids: (B,) int64 sample ids.

        Returns: (B, H, W, C) uint8, contiguous, on the decoder's device.

        Raises:
            BadFilesError: an image and all images that could replace it are bad.
            DataUnavailableError: no file of the data folder can be read.
        """
        return self._start(ids, self._pool).result()

    def load_held_out(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Loads images with a centre crop and without flip; leaves out bad images.

        Args:
            indices: (B,) int64 manifest indices.

        Returns: (N, H, W, C) uint8, contiguous; and the indices of these N images, (N,) int64.
        """
        crop = CenterCrop(interpolation=self._data.crop.interpolation)
        images, usable = [], []
        # One image at a time, with no other image to replace it.
        for index in indices:
            try:
                images.append(_BatchInProgress(self, [Sample(int(index), crop, [], False)], index[None]).result())
                usable.append(index)
            except DataUnavailableError:
                raise
            except BadFilesError:
                continue
        if not usable:
            return torch.empty((0, *self._data.size, self._data.image.channels), dtype=torch.uint8), indices[:0]
        return torch.cat(images), torch.stack(usable)

    def batches(self, stream: Iterable[Tensor]) -> Generator[tuple[Tensor, Tensor]]:
        """Yields the (images, ids) of each batch of `loaded_batches`."""
        with contextlib.closing(self.loaded_batches(stream)) as batches:
            for batch in batches:
                yield batch.images, batch.ids

    def loaded_batches(self, stream: Iterable[Tensor]) -> Generator[LoadedBatch]:
        """Yields the batch of each ids tensor of `stream`, in order.

        While the caller works on one batch, at most the next `data.prefetch` batches are read, decoded or in memory.

        Raises:
            BadFilesError: an image and all images that could replace it are bad. The error may come up to
                `data.prefetch` batches early.
        """
        with contextlib.closing(self._in_progress(stream, self._pool)) as batches:
            for ids, batch in batches:
                yield batch.loaded_batch(ids)

    def _in_progress(self, stream: Iterable[Tensor], pool: Tensor | None) -> Generator[tuple[Tensor, _BatchInProgress]]:
        """Yields each ids tensor of `stream` with its batch, after starting the next `data.prefetch` batches."""
        waiting: deque[tuple[Tensor, _BatchInProgress]] = deque()
        try:
            for ids in stream:
                waiting.append((ids, self._start(ids, pool)))
                self._decode_what_is_read(waiting)
                if len(waiting) > self._data.prefetch:
                    yield waiting[0]
                    waiting.popleft()
            while waiting:
                self._decode_what_is_read(waiting)
                yield waiting[0]
                waiting.popleft()
        finally:
            for _, batch in waiting:
                batch.cancel()

    def intact_batches(self, stream: Iterable[Tensor]) -> Generator[tuple[LoadedBatch, dict[int, str]]]:
        """Yields batches as `loaded_batches`, but leaves bad images out instead of replacing them.

        Bad images are not added to the quarantine.

        Yields: the rest of the batch, which may be empty; and the reason for each image left out, by manifest index.
        """
        with contextlib.closing(self._in_progress(stream, None)) as batches:
            for ids, batch in batches:
                yield batch.loaded_batch(ids), batch.left_out

    def replace(self, loaded: LoadedBatch, row: int, reason: str) -> None:
        """Replaces the image in one row of a batch, in place, and adds the old image to the quarantine.

        The method is for images that only a caller can find bad, such as an image without a label.

        Args:
            loaded: the batch.
            row: row of the image to replace.
            reason: why the image cannot be used.

        Raises:
            BadFilesError: as `load`.
        """
        self._quarantine.add(int(loaded.indices[row]), reason)
        ids = loaded.ids[row : row + 1]
        again = self._start(ids, self._pool).loaded_batch(ids)
        loaded.images[row], loaded.indices[row], loaded.sizes[row] = again.images[0], again.indices[0], again.sizes[0]

    def headers(self, indices: Tensor) -> Iterator[tuple[int, File, str | None]]:
        """Reads files, in order, without decoding them.

        Args:
            indices: (N,) int64 manifest indices.

        Yields: the index, the file, and the reason why the file is bad, or None. Only headers are checked.
        """
        pieces = [piece.tolist() for piece in indices.split(_PIECE)]
        reading = deque(map(self._read, pieces[:_READING_THREADS]))
        for i, piece in enumerate(pieces):
            if i + _READING_THREADS < len(pieces):
                reading.append(self._read(pieces[i + _READING_THREADS]))
            files = reading.popleft().result()
            self.retrying_reader.retry(piece, files)
            for index, file in zip(piece, files, strict=True):
                yield index, file, self._refusal(index, file)

    def cuts(self, ids: Tensor, sizes: Sequence[tuple[int, int]]) -> list[tuple[Cut, bool]]:
        """Returns the cut of each training sample, and True if the sample is flipped.

        Args:
            ids: (B,) int64 sample ids.
            sizes: (height, width) of the image of each sample.
        """
        drawn = zip(sizes, *self._drawn(ids), strict=True)
        return [(self._data.crop.cut(size, self._data.size, uniforms), flip) for size, uniforms, flip in drawn]

    def bad_files(self) -> dict[str, str]:
        """Returns the bad files that any process of the run has found: {path: reason}."""
        return self._quarantine.bad_files()

    def describe(self) -> str:
        """Returns a description of the decoder for people."""
        verified = ", checksums verified" if self._manifest.checksums is not None else ""
        return f"{self._decoder.describe()}{self._note}; {self._data.prefetch} micro-batches ahead{verified}"

    def close(self) -> None:
        """Drops waiting batches, waits for images that are being decoded, and ends the threads."""
        self._decoder.close()
        self._reader.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _start(self, ids: Tensor, pool: Tensor | None) -> _BatchInProgress:
        changes = self._changes(ids) if self._changes else [()] * len(ids)
        rows = zip(sample_index(ids).tolist(), *self._drawn(ids), changes, strict=True)
        samples = [Sample(index, self._data.crop, uniforms, flip, change) for index, uniforms, flip, change in rows]
        return _BatchInProgress(self, samples, pool)

    def _drawn(self, ids: Tensor) -> tuple[list[list[float]], list[bool]]:
        """Returns the numbers for the crop of each sample, and True for each sample that is flipped."""
        uniforms = uniform(self._seed, Stream.CROP, ids, self._data.crop.draws)
        flips = uniform(self._seed, Stream.FLIP, ids, 1)[:, 0] < self._data.flip
        return uniforms.tolist(), flips.tolist()

    def _decode_what_is_read(self, waiting: Iterable[tuple[Tensor, _BatchInProgress]]) -> None:
        """Starts to decode each batch whose files are read, so that a slow file delays only its own batch."""
        for _, batch in waiting:
            if batch.reading.done():
                batch.decode()

    def _read(self, indices: list[int]) -> PendingFiles:
        # The pixel data of a JPEG is checked once a run, because the check takes longer than reading.
        pixels = [not self._looked_through[i] for i in indices]
        return self._reader.submit([self._manifest.path(i) for i in indices], pixels)

    def _refusal(self, index: int, file: File) -> str | None:
        """Returns why a file must not be decoded, or None."""
        self._looked_through[index] = True
        return refusal(file, self._limits) or self._manifest.difference(index, len(file.data), file.checksum)


class _BatchInProgress:
    """A batch that is read and decoded in the background; bad files are replaced or left out.

    Attributes:
        left_out: reason for each image left out, by manifest index; complete after `result`.
    """

    def __init__(self, loader: Loader, samples: list[Sample], pool: Tensor | None):
        """Starts to read the files.

        Args:
            loader: the loader that the batch belongs to.
            samples: the samples of the batch.
            pool: manifest indices of the images that may replace a bad image; None = leave bad images out.
        """
        self._loader, self._samples, self._pool = loader, samples, pool
        self.left_out: dict[int, str] = {}
        self._rows = list(range(len(samples)))  # rows of the requested batch that are not left out
        self._indices = [
            sample.image if pool is None else loader._quarantine.resolve(sample.image, pool) for sample in samples
        ]
        self.reading = loader._read(self._indices)
        self._sizes: list[tuple[int, int]] = []
        self._decoding: PendingBatch | None = None

    def decode(self) -> None:
        """Waits for the files, replaces bad files, and starts to decode; a second call does nothing."""
        if self._decoding is None:
            self._decoding = self._start_decoding()

    def _start_decoding(self) -> PendingBatch:
        loader, files = self._loader, self.reading.result()
        loader.retrying_reader.retry(self._indices, files)
        while refused := {
            i: reason for i, file in enumerate(files) if (reason := loader._refusal(self._indices[i], file))
        }:
            if self._pool is None:
                self._leave_out(refused)
                files = [file for i, file in enumerate(files) if i not in refused]
                break
            self._replace(refused, self._pool)
            substitutes = [self._indices[i] for i in refused]
            again = loader._read(substitutes).result()
            loader.retrying_reader.retry(substitutes, again)
            for i, file in zip(refused, again, strict=True):
                files[i] = file
        fill, jobs = mean_colour(loader._data.mean), []
        self._sizes = [seen_size(file) for file in files]
        for sample, file, size in zip(self._samples, files, self._sizes, strict=True):
            cut = sample.crop.cut(size, loader._data.size, sample.uniforms)
            jobs.append(Job(file, cut, sample.flip, sample.changes, fill))
        return loader._decoder.start(jobs)

    def result(self) -> Tensor:
        """Waits for the images, and replaces images that turn out to be bad while they are decoded."""
        self._decoding = self._decoding or self._start_decoding()
        images, bad = self._decoding.result()
        if bad and self._pool is None:
            self._leave_out(bad)
            images = images[[i for i in range(len(images)) if i not in bad]]
        elif bad and self._pool is not None:
            self._replace(bad, self._pool)
            rows = list(bad)
            again = _BatchInProgress(self._loader, [self._samples[i] for i in rows], self._pool)
            images[rows] = again.result()
            for i, index, size in zip(rows, again._indices, again._sizes, strict=True):
                self._indices[i], self._sizes[i] = index, size
        return images

    def loaded_batch(self, ids: Tensor) -> LoadedBatch:
        """Returns the batch of `result`, with its sample ids and images' sizes."""
        images = self.result()
        return LoadedBatch(images, ids[self._rows], torch.tensor(self._indices, dtype=torch.int64), self._sizes)

    def cancel(self) -> None:
        """Cancels images that no thread has begun to decode."""
        if self._decoding is not None:
            self._decoding.cancel()

    def _leave_out(self, bad: dict[int, str]) -> None:
        """Drops the samples at these positions."""
        self.left_out |= {self._indices[i]: reason for i, reason in bad.items()}

        def kept(rows: list[_Row]) -> list[_Row]:
            return [row for i, row in enumerate(rows) if i not in bad]

        self._rows, self._indices, self._samples = kept(self._rows), kept(self._indices), kept(self._samples)
        self._sizes = kept(self._sizes)

    def _replace(self, bad: dict[int, str], pool: Tensor) -> None:
        """Chooses other images for the samples at these positions, and adds the bad images to the quarantine."""
        quarantine = self._loader._quarantine
        for i, reason in bad.items():
            quarantine.add(self._indices[i], reason)
            self._indices[i] = quarantine.resolve(self._samples[i].image, pool)


def open_loader(
    manifest: Manifest,
    data: ImageData,
    seed: int,
    quarantine: Quarantine,
    pool: Tensor,
    device: torch.device,
    changes: Changes | None = None,
) -> Loader:
    """Returns the loader that `data.loader` names; "auto" means DALI if installed, else Pillow.

    Args:
        manifest: the images.
        data: the settings of the loader.
        seed: seed of crop windows and flips, 0 <= seed < 2**64.
        quarantine: remembers bad files and chooses the images that replace them.
        pool: (N,) int64, manifest indices of the images that may replace a bad training image.
        device: device that trains. With CUDA, DALI decodes there, and Pillow's images lie in page-locked memory.
        changes: draws further changes of each training sample.

    Raises:
        ValueError: `data` asks for other than 1 or 3 channels, or for DALI where it cannot be imported.
    """
    channels = data.image.channels
    if channels not in (1, 3):
        raise ValueError(f"data.mean: expected 3 channels (RGB) or 1 (grayscale), as in image files, got {channels}")
    threads = data.workers or share_of_cores()
    settings = data.size, channels, data.crop.interpolation, threads
    limits = limits_of(data)
    pillow = PillowDecoder(*settings, pin=device.type == "cuda", limits=limits)
    if data.loader == "pillow":
        return Loader(manifest, data, seed, pillow, quarantine, pool, changes)
    try:
        from .dali import DaliDecoder

        return Loader(manifest, data, seed, DaliDecoder(*settings, device, pillow, limits), quarantine, pool, changes)
    except ImportError as error:
        if data.loader == "dali":
            raise ValueError(f"data.loader=dali: {error}") from error
        return Loader(manifest, data, seed, pillow, quarantine, pool, changes, note=f" (slower than DALI: {error})")


def limits_of(data: ImageData) -> Limits:
    """Returns the limits of the settings on decoding one image."""
    return Limits(data.decode_memory, data.decode_seconds)
