"""The DALI decoder for JPEG, PNG and WebP, on the CPU or a GPU. Pillow decodes the other files.

DALI has no types: `self._ndd` is `Any`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastmim_kernels.reader import Header

from .decode import ImageDecoder, Job, PendingBatch
from .image import DEFAULT_LIMITS, Limits, memory_needed, readable_header, refusal, reserved, seconds_needed

# Formats that DALI decodes faster than Pillow, to the same pixels bit for bit. DALI cannot decode GIF, and is slower
# for BMP, TIFF, palettes, CMYK and 16-bit samples.
_FORMATS = ("jpeg", "png", "webp")
# Jobs in one call on the CPU. A call has a fixed cost, but a large call would leave other threads without work.
_CHUNK = 16
# Jobs in one call on a GPU. A large call fills the GPU, but a bad file makes the whole call run again.
_GPU_CHUNK = 128

_Places = tuple[np.ndarray, np.ndarray]  # returned by `Job.places`


class DaliDecoder(ImageDecoder):
    """A decoder that uses DALI's dynamic mode. Unlike a DALI pipeline, this mode survives bad files.

    On the CPU, DALI decodes the window and torch resizes it, as DALI's own resize is slower and less like Pillow's. On
    a GPU, DALI also resizes.
    """

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        interpolation: str,
        threads: int,
        device: torch.device,
        pillow: ImageDecoder,
        limits: Limits = DEFAULT_LIMITS,
    ):
        """Imports DALI and starts the threads.

        Args:
            size: (H, W) of a sample.
            channels: 3 (RGB) or 1 (grayscale).
            interpolation: "bicubic" or "bilinear", antialiased.
            threads: number of threads.
            device: device of the results. A CUDA device also decodes.
            pillow: decoder of the other files, with the same settings. `close` closes this decoder too.
            limits: limits on one image. One call of DALI takes no more time or memory than one image may.

        Raises:
            ImportError: DALI cannot be imported; the message says how to install DALI.
        """
        ndd: Any
        types: Any
        # Imported here, because the import takes some seconds.
        try:
            from nvidia.dali import types
            from nvidia.dali.experimental import dynamic as ndd
        except ImportError as error:
            raise ImportError(
                f"NVIDIA DALI 2.4 or newer is needed and cannot be imported ({error}); "
                f"`pip install nvidia-dali-cuda130` installs it"
            ) from error
        self._ndd = ndd
        self._output_type = types.RGB if channels == 3 else types.GRAY
        self._interp_type = types.INTERP_CUBIC if interpolation == "bicubic" else types.INTERP_LINEAR
        self._interpolation = interpolation
        self._shape = (*size, channels)
        self._threads = threads
        self._device = device
        self._pillow, self._limits = pillow, limits
        self._local = threading.local()
        # On the CPU each thread makes its own calls. On a GPU there is one call at a time, spread over DALI's threads.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pool = ThreadPoolExecutor(1 if self._stream else threads, thread_name_prefix="fastmim-dali")

    def start(self, jobs: list[Job]) -> PendingBatch:
        images = torch.empty((len(jobs), *self._shape), dtype=torch.uint8, device=self._device)
        if self._stream:
            # The memory of `images` may still be in use by earlier work of the caller's stream. If the batch is
            # dropped, the memory must not return to that stream while this decoder's stream still writes.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            images.record_stream(self._stream)
        ours, others = [], []
        for position, job in enumerate(jobs):
            # Pillow makes the samples with further changes, and gives the reasons for bad files.
            takes = self._takes(readable_header(job.file)) and not job.changes and not refusal(job.file, self._limits)
            (ours if takes else others).append(position)
        decoding = [self._pool.submit(self._decode, chunk, jobs, images) for chunk in self._chunks(ours, jobs)]
        return _DaliBatch(images, self._start_pillow(others, jobs), decoding)

    def describe(self) -> str:
        formats = ", ".join(name.upper() for name in _FORMATS)
        return f"DALI on {self._device}, {self._threads} threads ({formats}); other files: {self._pillow.describe()}"

    def close(self) -> None:
        # This pool ends first, because running calls may still need Pillow's decoder.
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pillow.close()

    def _takes(self, header: Header) -> bool:
        """True if DALI decodes files with this header to Pillow's pixels, and faster."""
        # Turning makes DALI slower than Pillow, and DALI may read EXIF differently from the reader.
        if header.format not in _FORMATS or header.bits != 8 or header.orientation != 1:
            return False
        # Below the window's last row, DALI does not notice damage for which Pillow refuses a file.
        if header.irregular:
            return False
        # From colour to gray, DALI uses the luma of the JPEG, Pillow the RGB values.
        fits = self._shape[-1] == 3 or header.channels - header.alpha == 1
        return fits and not header.palette and not header.cmyk

    def _chunks(self, positions: list[int], jobs: list[Job]) -> Iterator[list[int]]:
        """Splits positions into calls that stay within the limits on time and memory."""
        chunk, share, most = [], 0.0, _GPU_CHUNK if self._stream else _CHUNK
        for position in positions:
            file = jobs[position].file
            part = max(seconds_needed(file) / self._limits.seconds, memory_needed(file) / self._limits.bytes)
            if chunk and (len(chunk) == most or share + part > 1):
                yield chunk
                chunk, share = [], 0.0
            chunk.append(position)
            share += part
        if chunk:
            yield chunk

    def _start_pillow(self, positions: list[int], jobs: list[Job]) -> _Elsewhere | None:
        """Hands the jobs at `positions` to Pillow."""
        return _Elsewhere(positions, self._pillow.start([jobs[i] for i in positions])) if positions else None

    def _decode(self, positions: list[int], jobs: list[Job], images: Tensor) -> _DaliCall:
        """Fills the rows at `positions`, and leaves files that DALI cannot decode to Pillow."""
        with reserved(self._limits, *(jobs[i].file for i in positions)):
            failed = self._fill_or_name(positions, jobs, images)
        filled = self._stream.record_event() if self._stream else None
        return _DaliCall(self._start_pillow(failed, jobs), filled)

    def _fill_or_name(self, positions: list[int], jobs: list[Job], images: Tensor) -> list[int]:
        """Fills the rows at `positions`, and returns the positions of files that DALI cannot decode."""
        if not hasattr(self._local, "context"):
            self._local.context = self._context()
        with self._local.context, self._ndd.EvalMode.sync_cpu:
            error = self._fill(positions, jobs, images)
            if error is None:
                return []
            # One bad file fails the whole call, and the error often does not name the file. So try each file alone.
            errors = {position: self._fill([position], jobs, images) for position in positions}
        failed = [position for position, error in errors.items() if error is not None]
        if len(failed) == len(positions) > 1:
            warnings.warn(f"DALI decodes none of {len(failed)} files, Pillow tries: {error}", stacklevel=2)
        return failed

    def _context(self) -> Any:
        """Returns DALI's context for the calling thread."""
        if self._stream is None:
            return self._ndd.EvalContext(num_threads=1)
        return self._ndd.EvalContext(
            num_threads=self._threads, device_id=self._stream.device.index, cuda_stream=self._stream
        )

    def _fill(self, positions: list[int], jobs: list[Job], images: Tensor) -> RuntimeError | None:
        """Fills the rows at `positions`. Returns an error if DALI cannot decode a file; no row is then valid."""
        jobs = [jobs[i] for i in positions]
        try:
            windows = self._windows(jobs)
        except RuntimeError as error:  # the only type that DALI raises for bad files
            return error
        places = [job.places(self._shape[:2]) for job in jobs]
        if self._stream:
            with torch.cuda.stream(self._stream):
                resized = self._resized(windows, jobs, places)
                for position, job, place, image in zip(positions, jobs, places, resized, strict=True):
                    images[position].copy_(image if place is None else _placed(image, place, job.fill))
        else:
            for position, job, place, window in zip(positions, jobs, places, windows.tensors, strict=True):
                image = self._resize(torch.from_numpy(np.asarray(window)), job)
                flipped = image.flip(1) if job.flip else image
                images[position].copy_(flipped if place is None else _placed(image, place, job.fill))
        return None

    def _windows(self, jobs: list[Job]) -> Any:
        """Decodes the windows of jobs, as a batch of DALI."""
        windows = np.array([job.cut.window for job in jobs], dtype=np.int32)
        return self._ndd.decoders.image_slice(
            self._ndd.as_batch([np.asarray(_Writable(job.file.data)) for job in jobs]),
            start=self._ndd.as_batch(np.ascontiguousarray(windows[:, :2])),
            shape=self._ndd.as_batch(np.ascontiguousarray(windows[:, 2:])),
            axes=(0, 1),
            output_type=self._output_type,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,  # the default of DALI on the CPU
            device="gpu" if self._stream else "cpu",
        )

    def _resized(self, windows: Any, jobs: list[Job], places: list[_Places | None]) -> Iterable[Tensor]:
        """Resizes windows on the GPU, and flips the windows that `_placed` does not cut later."""
        even = all(place is None for place in places)
        sizes = np.array([job.cut.resized for job in jobs], dtype=np.float32)
        flips = np.array([job.flip and place is None for job, place in zip(jobs, places, strict=True)], dtype=np.int32)
        resized = self._ndd.resize(
            windows,
            size=self._shape[:2] if even else self._ndd.as_batch(sizes),
            interp_type=self._interp_type,
            antialias=True,
        )
        flipped = self._ndd.flip(resized, horizontal=self._ndd.as_batch(flips))
        return flipped.torch() if even else [image.torch() for image in flipped.tensors]

    def _resize(self, window: Tensor, job: Job) -> Tensor:
        planes = window.movedim(-1, 0)[None]  # a view in the memory format for which torch has a fast resize
        return F.interpolate(planes, job.cut.resized, mode=self._interpolation, antialias=True)[0].movedim(0, -1)


def _placed(image: Tensor, places: _Places, fill: tuple[int, ...]) -> Tensor:
    """Returns the rows and columns of an image that a sample shows, with the colour `fill` in the padding."""
    rows, columns = (torch.from_numpy(np.ascontiguousarray(place)).to(image.device) for place in places)
    shown = image[rows[:, None], columns]
    if not any((place < 0).any() for place in places):
        return shown
    outside = (rows < 0)[:, None, None] | (columns < 0)[:, None]
    return torch.where(outside, torch.tensor(fill, dtype=image.dtype, device=image.device), shown)


class _Writable:
    """Read-only bytes that look writable to numpy.

    DALI would copy read-only bytes while holding Python's lock.
    """

    def __init__(self, data: np.ndarray):
        self._data = data
        self.__array_interface__ = {**data.__array_interface__, "data": (data.ctypes.data, False)}


class _Elsewhere(NamedTuple):
    """Rows of a batch that Pillow decodes."""

    positions: list[int]
    pending: PendingBatch


class _DaliCall(NamedTuple):
    """The result of one call of DALI."""

    others: _Elsewhere | None
    """Rows left to Pillow."""
    filled: torch.Event | None
    """CUDA event behind the rows that DALI decodes, or None on the CPU."""


class _DaliBatch(PendingBatch):
    def __init__(self, images: Tensor, others: _Elsewhere | None, decoding: list[Future[_DaliCall]]):
        self._images = images
        self._others = others
        self._decoding = decoding

    def result(self) -> tuple[Tensor, dict[int, str]]:
        decoded = [future.result() for future in self._decoding]
        for call in decoded:
            # An event for each call, because the decoder's stream may hold later batches that need no waiting now.
            if call.filled:
                torch.cuda.current_stream(self._images.device).wait_event(call.filled)
        elsewhere = [self._others, *(call.others for call in decoded)]
        reasons = {}
        for positions, pending in filter(None, elsewhere):
            images, failures = pending.result()
            for position, image in zip(positions, images, strict=True):
                self._images[position].copy_(image, non_blocking=True)
            reasons.update({positions[i]: reason for i, reason in failures.items()})
        return self._images, reasons

    def cancel(self) -> None:
        for future in self._decoding:
            future.cancel()
        if self._others:
            self._others.pending.cancel()
