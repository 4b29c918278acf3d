"""The DALI decoder: JPEG, PNG and WebP through NVIDIA DALI, on the CPU or on a GPU; the rest through another decoder.

May import fastmim_kernels and decode.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .decode import Decoder, Job, Pending

if TYPE_CHECKING:
    from fastmim_kernels.reader import Header

# Formats whose pixels are those of Pillow, bit for bit, and which DALI decodes faster. It has no GIF; it decodes BMP,
# TIFF, palettes, CMYK and 16-bit samples too, but more slowly than Pillow.
_FORMATS = ("jpeg", "png", "webp")
# Jobs per call on the CPU: DALI spends about 0.3 ms per call, and one thread must not hold a large part of a batch.
_CHUNK = 16


class DaliDecoder(Decoder):
    """Decodes with DALI's dynamic mode, whose operators, unlike a built pipeline, work on after a file failed.

    On the CPU DALI decodes the window and torch resizes it: DALI's own resize takes six times as long and is further
    from Pillow's. On a GPU DALI does both there.
    """

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        interpolation: str,
        threads: int,
        device: torch.device,
        pillow: Decoder,
    ):
        """
        Args:
            size: height and width of the images.
            channels: 3 (RGB) or 1 (grayscale).
            interpolation: "bicubic" or "bilinear", antialiased.
            threads: that decode.
            device: of the images; a CUDA device also decodes and resizes.
            pillow: decodes what DALI does not; its images have the same size and channels. Not closed with this one.
        Raises:
            ImportError: DALI is not installed or does not work here; the message says what to do.
        """
        # Here, because it takes a second.
        try:
            import nvidia.dali.experimental.dynamic as ndd
            from nvidia.dali import types
        except ImportError as error:
            raise ImportError(
                f"the DALI loader needs NVIDIA DALI 2.4 or newer, and importing it failed ({error}); "
                f"install it with `pip install nvidia-dali-cuda130`"
            ) from error
        self._ndd = ndd
        self._output_type = types.RGB if channels == 3 else types.GRAY
        self._interp_type = types.INTERP_CUBIC if interpolation == "bicubic" else types.INTERP_LINEAR
        self._interpolation = interpolation
        self._shape = (*size, channels)
        self._threads = threads
        self._device = device
        self._pillow = pillow
        self._local = threading.local()
        self._on_gpu = device.type == "cuda"
        # DALI's own threads share one call on the GPU; on the CPU each thread makes calls of its own.
        self._pool = ThreadPoolExecutor(1 if self._on_gpu else threads, thread_name_prefix="fastmim-dali")
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None

    def start(self, jobs: list[Job]) -> Pending:
        images = torch.empty((len(jobs), *self._shape), dtype=torch.uint8, device=self._device)
        if self._on_gpu:  # its memory may still be in use by what the caller's stream was given before
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        ours, others = [], []
        for position, job in enumerate(jobs):
            (ours if self._takes(job.file.header) else others).append(position)
        chunk = max(1, len(ours)) if self._on_gpu else _CHUNK
        chunks = [ours[i : i + chunk] for i in range(0, len(ours), chunk)]
        decoding = [self._pool.submit(self._decode, chunk, jobs, images) for chunk in chunks]
        return _Pending(images, self._start_pillow(others, jobs), decoding, self._stream)

    def describe(self) -> str:
        where = f"on {self._device}" if self._on_gpu else "on the CPU"
        formats = ", ".join(name.upper() for name in _FORMATS)
        return f"DALI {where}, {self._threads} threads ({formats}); for other files, {self._pillow.describe()}"

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _takes(self, header: Header | None) -> bool:
        """Whether DALI decodes such files, and to the pixels of Pillow."""
        if header is None or header.format not in _FORMATS:
            return False
        # From colour, DALI takes JPEG's own luma for gray, where Pillow computes it from RGB.
        gray_only = self._shape[-1] == 1 and header.channels - header.alpha != 1
        return header.bits == 8 and not (header.palette or header.cmyk or gray_only)

    def _start_pillow(self, positions: list[int], jobs: list[Job]) -> _Elsewhere | None:
        """Has the jobs at `positions` decoded by Pillow."""
        return _Elsewhere(positions, self._pillow.start([jobs[i] for i in positions])) if positions else None

    def _decode(self, positions: list[int], jobs: list[Job], images: Tensor) -> _Elsewhere | None:
        """Fills the rows at `positions`; hands those that DALI cannot decode to Pillow."""
        if not hasattr(self._local, "context"):
            self._local.context = self._context()
        with self._local.context, self._ndd.EvalMode.sync_cpu:
            if self._filled(positions, jobs, images):
                return None
            # One bad file fails the call for all of them, often without being named.
            failed = [position for position in positions if not self._filled([position], jobs, images)]
        return self._start_pillow(failed, jobs)

    def _filled(self, positions: list[int], jobs: list[Job], images: Tensor) -> bool:
        try:
            self._fill(positions, [jobs[i] for i in positions], images)
        except RuntimeError:
            return False
        return True

    def _context(self):
        if self._on_gpu:
            return self._ndd.EvalContext(
                num_threads=self._threads, device_id=self._stream.device_index, cuda_stream=self._stream
            )
        return self._ndd.EvalContext(num_threads=1)

    def _fill(self, positions: list[int], jobs: list[Job], images: Tensor) -> None:
        windows = np.array([job.window for job in jobs], dtype=np.int32)
        decoded = self._ndd.decoders.image_slice(
            self._ndd.as_batch([job.file.data for job in jobs]),
            start=self._ndd.as_batch(np.ascontiguousarray(windows[:, :2])),
            shape=self._ndd.as_batch(np.ascontiguousarray(windows[:, 2:])),
            axes=(0, 1),
            output_type=self._output_type,
            jpeg_fancy_upsampling=True,  # as on the CPU
            device="gpu" if self._on_gpu else "cpu",
        )
        if self._on_gpu:
            resized = self._ndd.resize(decoded, size=self._shape[:2], interp_type=self._interp_type, antialias=True)
            flips = self._ndd.as_batch(np.array([job.flip for job in jobs], dtype=np.int32))
            with torch.cuda.stream(self._stream):
                images[positions] = self._ndd.flip(resized, horizontal=flips).torch()
            return
        for position, job, pixels in zip(positions, jobs, decoded.tensors, strict=True):
            self._resize(torch.from_numpy(np.asarray(pixels)), job.flip, images[position])

    def _resize(self, pixels: Tensor, flip: bool, out: Tensor) -> None:
        image = F.interpolate(pixels.movedim(-1, 0)[None], out.shape[:2], mode=self._interpolation, antialias=True)
        image = image[0].movedim(0, -1)
        out.copy_(image.flip(1) if flip else image)


class _Elsewhere(NamedTuple):
    """Some rows of a batch, which another decoder makes."""

    positions: list[int]
    pending: Pending


class _Pending(Pending):
    def __init__(
        self,
        images: Tensor,
        others: _Elsewhere | None,
        decoding: list[Future[_Elsewhere | None]],
        stream: torch.cuda.Stream | None,
    ):
        self._images = images
        self._others = others
        self._decoding = decoding
        self._stream = stream

    def result(self) -> tuple[Tensor, dict[int, str]]:
        elsewhere = [self._others, *(future.result() for future in self._decoding)]
        if self._stream is not None:
            current = torch.cuda.current_stream(self._images.device)
            current.wait_stream(self._stream)
            self._images.record_stream(self._stream)
        reasons = {}
        for positions, pending in filter(None, elsewhere):
            images, failures = pending.result()
            self._images[positions] = images.to(self._images.device)
            reasons.update({positions[i]: reason for i, reason in failures.items()})
        return self._images, reasons
