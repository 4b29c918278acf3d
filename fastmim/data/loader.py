"""The loader: sample ids in, uint8 images out, whatever the files. It plans, reads, has decoded and replaces bad files.

May import config, tokens and fastmim_kernels.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmim_kernels.philox import uniform
from fastmim_kernels.reader import Batch, File, Reader

from ..config import base as config
from ..host.launcher import share_of_cores
from ..parts import Crop, Cut
from ..samples import Stream, sample_index
from .away import DataAwayError, Patience
from .crops import CenterCrop
from .decode import Change, Decoder, Job, Pending, PillowDecoder, mean_colour
from .image import Limits, refusal, seen_size
from .manifest import Manifest
from .quarantine import BadFilesError, Quarantine

Changes = Callable[[Tensor], list[Sequence[Change]]]
"""From (B,) int64 sample ids, what is done to each sample after crop and flip; called in the loader's own thread."""

_PIECE = 32  # files asked for at once where only headers are looked at
_READING_THREADS = 4  # they wait for a disk or a network, seldom for a core


class Sample(NamedTuple):
    """A crop of an image to make, with the numbers drawn for it."""

    index: int
    crop: Crop
    uniforms: list[float]
    flip: bool
    changes: Sequence[Change] = ()


class Loaded(NamedTuple):
    """A batch, and which images it shows: their labels must be cut, placed and flipped alike.

    images: (B, H, W, C) uint8. ids: (B,) int64. indices: (B,) int64 of the images of the manifest that are shown; they
    differ from those of the ids where files are bad. sizes: (height, width) of each shown image, upright, in pixels.
    """

    images: Tensor
    ids: Tensor
    indices: Tensor
    sizes: list[tuple[int, int]]


class Loader:
    """Loads samples as uint8 images: read, decode, turn by the EXIF orientation, crop, resize, flip.

    Windows, flips and further changes are drawn for the sample id, so they stay when a bad file is replaced by another.
    Use it as a context manager, or `close` it: it owns threads.

    Attributes:
        patience: waits where files cannot be read.
    """

    def __init__(
        self,
        manifest: Manifest,
        data: config.ImageData,
        seed: int,
        decoder: Decoder,
        quarantine: Quarantine,
        pool: Tensor,
        changes: Changes | None = None,
        note: str = "",
    ):
        """
        Args:
            seed: of crop windows and flips, 0 <= seed < 2**64.
            decoder: closed with the loader.
            pool: (N,) int64 manifest indices that may take the place of a bad training image.
            changes: draws what else is done to each training sample.
            note: what `describe` says about the choice of decoder.
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
        self.patience = Patience(manifest, lambda indices: self._read(indices).result(), self._limits.file_bytes)

    def load(self, ids: Tensor) -> Tensor:
        """The training samples `ids`, (B,) int64: (B, H, W, C) uint8, contiguous, on the decoder's device.

        Raises:
            BadFilesError: an image and everything that could take its place cannot be used; as DataAwayError, the data
                folder is away.
        """
        return self._samples(ids, self._pool).result()

    def held_out(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images at `indices` of the manifest, (B,) int64, centre crop, no flip; bad ones are left out.

        Returns: (N, H, W, C) uint8, contiguous, and the N indices that they are of.
        """
        crop = CenterCrop(interpolation=self._data.crop.interpolation)
        images, usable = [], []
        # One at a time, each its own only substitute.
        for index in indices:
            try:
                images.append(_Batch(self, [Sample(int(index), crop, [], False)], index[None]).result())
                usable.append(index)
            except DataAwayError:
                raise
            except BadFilesError:
                continue
        if not usable:
            return torch.empty((0, *self._data.size, self._data.image.channels), dtype=torch.uint8), indices[:0]
        return torch.cat(images), torch.stack(usable)

    def batches(self, stream: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """`loaded` without what only labels need: (images, ids) pairs."""
        with contextlib.closing(self.loaded(stream)) as batches:
            for batch in batches:
                yield batch.images, batch.ids

    def loaded(self, stream: Iterable[Tensor]) -> Iterator[Loaded]:
        """`load` for every ids of `stream`, in order.

        While the caller has one batch, the next `data.prefetch` are being read or decoded or wait in memory, no more.

        Raises:
            BadFilesError: as `load`; raised in place of its batch or of one of the `data.prefetch` before it.
        """
        with contextlib.closing(self._ahead(stream, self._pool)) as batches:
            for ids, batch in batches:
                yield batch.loaded(ids)

    def _ahead(self, stream: Iterable[Tensor], pool: Tensor | None) -> Iterator[tuple[Tensor, _Batch]]:
        """Yields every ids of `stream` with its batch; the next `data.prefetch` are on their way."""
        waiting: deque[tuple[Tensor, _Batch]] = deque()
        try:
            for ids in stream:
                waiting.append((ids, self._samples(ids, pool)))
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

    def intact(self, stream: Iterable[Tensor]) -> Iterator[tuple[Loaded, dict[int, str]]]:
        """As `loaded`, but a bad file leaves its batch instead of being replaced, and is not noted.

        Yields: the rest of the batch, which may be empty; and why each bad image, by index, is left out.
        """
        with contextlib.closing(self._ahead(stream, None)) as batches:
            for ids, batch in batches:
                yield batch.loaded(ids), batch.left_out

    def replace(self, loaded: Loaded, row: int, reason: str) -> None:
        """Puts another image in one row of a batch, in place, because of what is known beside the file; notes it.

        Raises:
            BadFilesError: as `load`.
        """
        self._quarantine.add(int(loaded.indices[row]), reason)
        ids = loaded.ids[row : row + 1]
        again = self._samples(ids, self._pool).loaded(ids)
        loaded.images[row], loaded.indices[row], loaded.sizes[row] = again.images[0], again.indices[0], again.sizes[0]

    def headers(self, indices: Tensor) -> Iterator[tuple[int, File, str | None]]:
        """Reads the files at these indices of the manifest, in order, without decoding them.

        Yields: the index, the file, and why it cannot be used as far as its header tells.
        """
        pieces = [piece.tolist() for piece in indices.split(_PIECE)]
        reading = deque(map(self._read, pieces[:_READING_THREADS]))
        for i, piece in enumerate(pieces):
            if i + _READING_THREADS < len(pieces):
                reading.append(self._read(pieces[i + _READING_THREADS]))
            files = reading.popleft().result()
            self.patience.insist(piece, files)
            for index, file in zip(piece, files, strict=True):
                yield index, file, self._refusal(index, file)

    def cuts(self, ids: Tensor, sizes: Sequence[tuple[int, int]]) -> list[tuple[Cut, bool]]:
        """Returns cut and flip of the training samples `ids`, (B,) int64, for images of these (height, width)."""
        drawn = zip(sizes, *self._drawn(ids), strict=True)
        return [(self._data.crop.cut(size, self._data.size, uniforms), flip) for size, uniforms, flip in drawn]

    def bad_files(self) -> dict[str, str]:
        """Every bad file that any process of the run has found: {path: reason}."""
        return self._quarantine.bad_files()

    def describe(self) -> str:
        """Describes the decoder in words."""
        verified = ", checksums verified" if self._manifest.checksums is not None else ""
        return f"{self._decoder.describe()}{self._note}; {self._data.prefetch} micro-batches ahead{verified}"

    def close(self) -> None:
        """Drops what is waiting, waits for the images being decoded, ends the threads."""
        self._decoder.close()
        self._reader.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _samples(self, ids: Tensor, pool: Tensor | None) -> _Batch:
        changes = self._changes(ids) if self._changes else [()] * len(ids)
        rows = zip(sample_index(ids).tolist(), *self._drawn(ids), changes, strict=True)
        return _Batch(self, [Sample(index, self._data.crop, *drawn) for index, *drawn in rows], pool)

    def _drawn(self, ids: Tensor) -> tuple[list[list[float]], list[bool]]:
        """Of each sample, the numbers for its crop, and whether it is flipped."""
        uniforms = uniform(self._seed, Stream.CROP, ids, self._data.crop.draws)
        flips = uniform(self._seed, Stream.FLIP, ids, 1)[:, 0] < self._data.flip
        return uniforms.tolist(), flips.tolist()

    def _decode_what_is_read(self, waiting: Iterable[tuple[Tensor, _Batch]]) -> None:
        """Hands on what needs no waiting: a slow file holds up its own batch only."""
        for _, batch in waiting:
            if batch.reading.done():
                batch.decode()

    def _read(self, indices: list[int]) -> Batch:
        # A JPEG's pixels are looked through once a run, as that takes longer than reading them.
        pixels = [not self._looked_through[i] for i in indices]
        return self._reader.submit([self._manifest.path(i) for i in indices], pixels)

    def _refusal(self, index: int, file: File) -> str | None:
        """Returns why a file must not be decoded, or None."""
        self._looked_through[index] = True
        return refusal(file, self._limits) or self._manifest.difference(index, len(file.data), file.checksum)


class _Batch:
    """Samples on their way: read in the background, then decoded in the background, bad files replaced or left out.

    Attributes:
        left_out: why each bad image, by index, is not in the result; complete after `result`.
    """

    def __init__(self, loader: Loader, samples: list[Sample], pool: Tensor | None):
        """
        Args:
            pool: manifest indices that may take the place of a bad image; None = bad images are left out.
        """
        self._loader, self._samples, self._pool = loader, samples, pool
        self.left_out: dict[int, str] = {}
        self._rows = list(range(len(samples)))  # of the batch as it was asked for
        self._indices = [
            sample.index if pool is None else loader._quarantine.resolve(sample.index, pool) for sample in samples
        ]
        self.reading = loader._read(self._indices)
        self._sizes: list[tuple[int, int]] = []
        self._decoding: Pending | None = None

    def decode(self) -> None:
        """Begins to decode, if that has not happened: waits for the files, and replaces those refused."""
        if self._decoding is not None:
            return
        loader, files = self._loader, self.reading.result()
        loader.patience.insist(self._indices, files)
        while refused := {
            i: reason for i, file in enumerate(files) if (reason := loader._refusal(self._indices[i], file))
        }:
            if self._pool is None:
                self._leave_out(refused)
                files = [file for i, file in enumerate(files) if i not in refused]
                break
            self._replace(refused)
            substitutes = [self._indices[i] for i in refused]
            again = loader._read(substitutes).result()
            loader.patience.insist(substitutes, again)
            for i, file in zip(refused, again, strict=True):
                files[i] = file
        fill, jobs = mean_colour(loader._data.mean), []
        self._sizes = [seen_size(file) for file in files]
        for sample, file, size in zip(self._samples, files, self._sizes, strict=True):
            cut = sample.crop.cut(size, loader._data.size, sample.uniforms)
            jobs.append(Job(file, cut, sample.flip, sample.changes, fill))
        self._decoding = loader._decoder.start(jobs)

    def result(self) -> Tensor:
        """Waits for the images; those that turn out to be bad only now are replaced and decoded again."""
        self.decode()
        images, bad = self._decoding.result()
        if bad and self._pool is None:
            self._leave_out(bad)
            images = images[[i for i in range(len(images)) if i not in bad]]
        elif bad:
            self._replace(bad)
            rows = list(bad)
            again = _Batch(self._loader, [self._samples[i] for i in rows], self._pool)
            images[rows] = again.result()
            for i, index, size in zip(rows, again._indices, again._sizes, strict=True):
                self._indices[i], self._sizes[i] = index, size
        return images

    def loaded(self, ids: Tensor) -> Loaded:
        """`result`, and what it is of."""
        images = self.result()
        return Loaded(images, ids[self._rows], torch.tensor(self._indices, dtype=torch.int64), self._sizes)

    def cancel(self) -> None:
        """Drops what has not begun."""
        if self._decoding is not None:
            self._decoding.cancel()

    def _leave_out(self, bad: dict[int, str]) -> None:
        """Drops the samples at these positions."""
        self.left_out |= {self._indices[i]: reason for i, reason in bad.items()}
        for rows in (self._rows, self._indices, self._samples, self._sizes):
            rows[:] = [row for i, row in enumerate(rows) if i not in bad]

    def _replace(self, bad: dict[int, str]) -> None:
        """Chooses other images for the samples at these positions; names the bad ones with their reasons."""
        quarantine = self._loader._quarantine
        for i, reason in bad.items():
            quarantine.add(self._indices[i], reason)
            self._indices[i] = quarantine.resolve(self._samples[i].index, self._pool)


def open_loader(
    manifest: Manifest,
    data: config.ImageData,
    seed: int,
    quarantine: Quarantine,
    pool: Tensor,
    device: torch.device,
    changes: Changes | None = None,
) -> Loader:
    """The loader that `data.loader` names, for training on `device`; "auto" is DALI where it can be imported.

    Raises:
        ValueError: a number of channels other than 1 or 3; "dali" was asked for and cannot be imported.
    """
    channels = data.image.channels
    if channels not in (1, 3):
        raise ValueError(
            f"images have 3 channels (RGB) or 1 (grayscale), as that is what image files decode to; "
            f"data.mean has {channels}"
        )
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


def limits_of(data: config.ImageData) -> Limits:
    """The limits on decoding one image that the settings give."""
    return Limits(data.decode_memory, data.decode_seconds)
