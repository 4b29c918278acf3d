"""Reader of image files: C++ threads read files in advance and check headers, without decoding.

The bytes and header of each file come back in the order of the request. A hopeless file (unreadable, truncated, not an
image) comes back with a reason instead of raising.

A forked child cannot use the reader of its parent, since threads do not survive a fork: `submit` and `result` raise
there. Files received before the fork stay valid in both processes.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from .. import _library

FORMATS = ("jpeg", "png", "webp", "bmp", "tiff", "gif", "avif")
_KINDS = ("unsigned", "signed", "float")


@dataclass(frozen=True)
class Header:
    """Facts about an image, read from the header of its file."""

    format: str
    """One of `FORMATS`, found from the content, not from the name."""
    width: int
    """Stored columns of pixels, before orientation."""
    height: int
    """Stored rows of pixels, before orientation."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 if absent or invalid."""
    channels: int
    """Stored channels: 1 gray or palette, 2 gray + alpha, 3 RGB or YCbCr, 4 RGBA or CMYK."""
    bits: int
    """Bits per sample."""
    palette: bool
    """True if pixels are indices of a palette."""
    alpha: bool
    """True if the image has transparency."""
    cmyk: bool
    """True for CMYK and YCCK."""
    progressive: bool
    """True for a progressive JPEG and an interlaced PNG."""
    irregular: bool
    """True if decoders disagree on whether the file is good.

    Such a file is a JPEG with unexpected markers in or after its pixel data, or a PNG with a large compressed text or
    profile.
    """
    kind: str = "unsigned"
    """Type of the samples: "unsigned", "signed" or "float"."""
    frames: int = 1
    """Pages, frames or pictures in the file; the first is used."""
    scans: int = 1
    """Passes over the pixels; a JPEG may have many."""
    parts: int = 0
    """Pieces that a decoder handles one by one: segments, chunks, strips, tiles, fill bytes, run lengths."""
    metadata: int = 0
    """Bytes of the segments before the pixels of a JPEG."""
    buffer: int = 0
    """Bytes that a decoder keeps besides the pixels and the file.

    These bytes hold the coefficients of a JPEG with several scans, the largest strip or tile of a TIFF, and the values
    of tags.
    """


@dataclass(frozen=True, eq=False)
class File:
    """One file of a batch: its bytes, and its header or an error."""

    path: str
    data: np.ndarray
    """Bytes of the file, (n,) uint8, read-only; empty if the file could not be read.

    Views keep the memory alive.
    """
    header: Header | None
    """Header of the image; None if `error` is set."""
    error: str | None
    """Reason why the file is hopeless, for a person; None = the file is good."""
    checksum: int | None
    """XXH64 (seed 0) of the bytes, if the reader computes checksums and the bytes could be read."""


class _Header(ctypes.Structure):
    _fields_ = [(field.name, ctypes.c_int64) for field in fields(Header)]


class _Taken(ctypes.Structure):
    _fields_ = [
        ("file", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("checksum", ctypes.c_uint64),
        ("readable", ctypes.c_int64),
        ("error", ctypes.c_char_p),
        ("header", _Header),
    ]


@functools.cache
def _load() -> ctypes.CDLL:
    """Returns the C++ library. reader.cpp documents its functions.

    Raises:
        RuntimeError: the library was not built, is older than its sources or does not load.
    """
    problem = _library.problem("_reader")
    if problem:
        raise RuntimeError(problem)
    try:
        library = ctypes.CDLL(str(_library.path("_reader")))
    except OSError as error:
        raise RuntimeError(f"the C++ library does not load: {error}; to rebuild it, {_library.BUILD}") from error
    pointer, size, text = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p
    for name, result, arguments in [
        ("reader_open", pointer, [ctypes.c_int, size, ctypes.c_int, size, text]),
        ("reader_close", None, [pointer]),
        ("reader_submit", pointer, [pointer, text, text, size]),
        ("batch_wait", ctypes.c_int, [pointer, ctypes.c_int]),
        ("batch_take", None, [pointer, ctypes.POINTER(_Taken)]),
        ("batch_release", None, [pointer]),
        ("file_release", None, [pointer]),
        ("parse_header", None, [text, size, ctypes.c_int, ctypes.POINTER(_Header), text, size]),
        ("xxh64", size, [text, size]),
    ]:
        function = getattr(library, f"fastmim_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class _Memory:
    """Bytes of a file in the library's memory, which returns to the reader when no array uses it."""

    def __init__(self, release, taken: _Taken):
        self._release = release
        self._file = taken.file
        self.__array_interface__ = {"data": (taken.data, True), "shape": (taken.size,), "typestr": "|u1", "version": 3}

    def __del__(self):
        self._release(self._file)


def _header(raw: _Header) -> Header:
    return Header(
        format=FORMATS[raw.format - 1],
        width=raw.width,
        height=raw.height,
        orientation=raw.orientation,
        channels=raw.channels,
        bits=raw.bits,
        palette=bool(raw.palette),
        alpha=bool(raw.alpha),
        cmyk=bool(raw.cmyk),
        progressive=bool(raw.progressive),
        irregular=bool(raw.irregular),
        kind=_KINDS[raw.kind],
        frames=raw.frames,
        scans=raw.scans,
        parts=raw.parts,
        metadata=raw.metadata,
        buffer=raw.buffer,
    )


class Reader:
    """Pool of threads that read files in the order of submission.

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self, threads: int, max_bytes: int = 1 << 30, checksum: bool = False, largest: int = 1 << 28, advice: str = ""
    ):
        """Starts the threads.

        Args:
            threads: number of threads, 1 to 1024.
            max_bytes: bound on the bytes of file contents held, in batches and in `File`s not yet released. At the
                bound, reading waits for releases. Only a batch whose `result` somebody waits for, and the batches
                before it, may exceed the bound.
            checksum: True = `File.checksum` is computed.
            largest: largest file that is read, in bytes. For a larger file, `File.error` says so and ends in `advice`.
            advice: end of that message, e.g. the setting to change.
        Raises:
            ValueError: `threads` is not from 1 to 1024, or `max_bytes` is below 1.
            RuntimeError: the C++ library is missing or out of date (there is no other implementation), or the system
                has no more threads.
        """
        if not 1 <= threads <= 1024 or max_bytes < 1:
            raise ValueError(f"expected 1 to 1024 threads and a positive max_bytes, got {threads} and {max_bytes}")
        self._library = _load()
        self._checksum = checksum
        self._process = os.getpid()
        self._lock = threading.Lock()  # without a lock, one thread could submit to a pool that another thread closes
        self._pool = self._library.fastmim_reader_open(threads, max_bytes, checksum, largest, advice.encode())
        if not self._pool:
            raise RuntimeError(f"the system does not start {threads} more threads; ask for fewer")
        self._finalizer = weakref.finalize(self, _close, self._library, self._pool, self._process)

    def submit(self, paths: Sequence[str], pixels: Sequence[bool] | None = None) -> PendingFiles:
        """Starts reading files and returns at once, so that batches can be prefetched.

        Args:
            paths: the files.
            pixels: for each path, True = the pixels of a JPEG are checked too. A truncated or damaged JPEG then has an
                `error`, where decoders would fill the rest with gray. The check takes about a tenth of the time of
                decoding. None = no pixels are checked.
        Returns: the batch of these files.
        Raises:
            ValueError: a path contains a zero byte.
            RuntimeError: the reader is closed, or belongs to the process from which this process was forked.
        """
        self._check_process()
        names = [os.fsencode(path) for path in paths]
        for name in names:
            if b"\0" in name:
                raise ValueError(f"expected file names without zero bytes, got {name!r}")
        flags = bytes(len(names) if pixels is None else map(bool, pixels))
        joined = b"".join(name + b"\0" for name in names)
        with self._lock:
            if not self._finalizer.alive:
                raise RuntimeError("the reader is closed")
            batch = self._library.fastmim_reader_submit(self._pool, joined, flags, len(names))
        return PendingFiles(self, batch, list(paths))

    def close(self) -> None:
        """Stops the threads and drops batches not yet read; `File`s already received stay valid."""
        if os.getpid() != self._process:
            return  # a forked child has no threads to stop, and the lock may have been held at the fork
        with self._lock:
            self._finalizer()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                "this reader belongs to another process, and its threads do not survive a fork; make a new reader here"
            )


def _close(library: ctypes.CDLL, pool: int, process: int) -> None:
    if os.getpid() == process:
        library.fastmim_reader_close(pool)


class PendingFiles:
    """Files being read, made by `Reader.submit`. Deleting the object drops its files."""

    def __init__(self, reader: Reader, batch: int, paths: list[str]):
        self._reader = reader
        self._batch = batch
        self._paths = paths
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, reader._library.fastmim_batch_release, batch)

    def done(self) -> bool:
        """True if `result` would return at once."""
        return not self._finalizer.alive or self._reader._library.fastmim_batch_wait(self._batch, 0) != 0

    def result(self) -> list[File]:
        """Waits for the files and returns them once, in the order of the paths.

        Raises:
            RuntimeError: the reader was closed before it had read the files, the files were returned already, or this
                is a forked process.
        """
        self._reader._check_process()
        library, state = self._reader._library, 0
        taken = (_Taken * len(self._paths))()
        with self._lock:
            if not self._finalizer.alive:
                raise RuntimeError("the files of this batch were handed over already")
            while state == 0:
                state = library.fastmim_batch_wait(self._batch, 100)  # short waits, so that Ctrl-C takes effect
            if state != 1:
                raise RuntimeError("the reader was closed before it had read this batch")
            library.fastmim_batch_take(self._batch, taken)
            self._finalizer()
        return [self._file(path, one) for path, one in zip(self._paths, taken, strict=True)]

    def _file(self, path: str, taken: _Taken) -> File:
        error = taken.error.decode() or None
        memory = _Memory(self._reader._library.fastmim_file_release, taken)
        return File(
            path,
            np.asarray(memory) if taken.size else np.empty(0, np.uint8),
            None if error else _header(taken.header),
            error,
            taken.checksum if self._reader._checksum and taken.readable else None,
        )


def parse_header(data: bytes, pixels: bool = False) -> tuple[Header | None, str | None]:
    """Returns (header, None) of an image in memory, or (None, reason) if the image is hopeless.

    Args:
        data: the bytes of the file.
        pixels: True = the pixels of a JPEG are checked too, see `Reader.submit`.
    Raises:
        RuntimeError: see `Reader`.
    """
    raw, error = _Header(), ctypes.create_string_buffer(256)
    _load().fastmim_parse_header(data, len(data), pixels, raw, error, len(error))
    return (None, error.value.decode()) if error.value else (_header(raw), None)


def xxh64(data: bytes) -> int:
    """Returns XXH64 with seed 0 of bytes in memory, equal to `File.checksum` of a file with these bytes.

    Raises:
        RuntimeError: see `Reader`.
    """
    return _load().fastmim_xxh64(data, len(data))
