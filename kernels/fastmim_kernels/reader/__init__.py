"""Reads image files ahead of their use, in C++ threads, and checks their headers without decoding.

A file's bytes and header come back in the order asked for; a hopeless file (unreadable, truncated, not an image)
comes back with the reason instead of raising. May import numpy, the standard library and _library.

A forked child cannot use a reader of its parent, whose threads it does not have: `submit` and `result` raise there.
Files received before the fork stay valid in both.
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
    """Facts that a file states about its image."""

    format: str
    """One of `FORMATS`: told by content, not by name."""
    width: int
    """Of the stored pixels, before orientation."""
    height: int
    orientation: int
    """EXIF, 1..8; 1 if absent or invalid."""
    channels: int
    """As stored: 1 gray or palette, 2 gray + alpha, 3 RGB or YCbCr, 4 RGBA or CMYK."""
    bits: int
    """Per sample."""
    palette: bool
    alpha: bool
    cmyk: bool
    """CMYK or YCCK."""
    progressive: bool
    """Also an interlaced PNG."""
    irregular: bool
    """A JPEG with markers in or behind its pixel data that a whole file does not have there, or a PNG with much packed
    text or profile: decoders differ on whether it is good."""
    kind: str = "unsigned"
    """Of the samples: "unsigned", "signed" or "float"."""
    frames: int = 1
    """Pages, frames or pictures in the file, of which the first is used."""
    scans: int = 1
    """Passes over the pixels, of which a JPEG may have many."""
    parts: int = 0
    """Pieces that a decoder handles one by one: segments, chunks, strips, tiles, fill bytes, run lengths."""
    metadata: int = 0
    """Bytes of the segments before a JPEG's pixels."""
    buffer: int = 0
    """Bytes that a decoder keeps beside the pixels and the file: coefficients of a JPEG of several scans, the largest
    strip or tile of a TIFF, the values of tags."""


@dataclass(frozen=True, eq=False)
class File:
    """One file as it was read."""

    path: str
    data: np.ndarray
    """(n,) uint8, read-only: the bytes; empty when they could not be read. Views keep the memory alive."""
    header: Header | None
    """None when `error` is set."""
    error: str | None
    """Why the file is hopeless, in words for a person."""
    checksum: int | None
    """XXH64 (seed 0) of the bytes, if the reader was asked for it and they could be read."""


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
    """The C++ library; reader.cpp describes its functions.

    Raises:
        RuntimeError: it was not built, is older than its sources or does not load.
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
    """The bytes of a file in the library's memory, which go back to the reader when no array shows them any more."""

    def __init__(self, release, taken: _Taken):
        self._release = release
        self._file = taken.file
        self.__array_interface__ = {"data": (taken.data, True), "shape": (taken.size,), "typestr": "|u1", "version": 3}

    def __del__(self):
        self._release(self._file)


def _header(raw: _Header) -> Header:
    flags = (bool(getattr(raw, name)) for name in ("palette", "alpha", "cmyk", "progressive", "irregular"))
    numbers = (raw.frames, raw.scans, raw.parts, raw.metadata, raw.buffer)
    known = FORMATS[raw.format - 1], raw.width, raw.height, raw.orientation, raw.channels, raw.bits
    return Header(*known, *flags, _KINDS[raw.kind], *numbers)


class Reader:
    """A pool of threads that read files in the order of submission. Use it as a context manager, or `close` it."""

    def __init__(
        self, threads: int, max_bytes: int = 1 << 30, checksum: bool = False, largest: int = 1 << 28, advice: str = ""
    ):
        """
        Args:
            max_bytes: of file contents held, in batches and in `File`s not yet released. At the bound reading waits
                for releases; only a batch whose `result` is waited for, and those before it, may exceed it.
            checksum: whether to compute `File.checksum`.
            largest: bytes of a file that is read; of a larger one `File.error` says so, and ends in `advice`.
        Raises:
            ValueError: `threads` not in 1 .. 1024, `max_bytes` below 1.
            RuntimeError: the C++ library is missing or out of date (there is no other implementation), or the system
                has no more threads.
        """
        if not 1 <= threads <= 1024 or max_bytes < 1:
            raise ValueError(f"expected 1 to 1024 threads and a positive max_bytes, got {threads} and {max_bytes}")
        self._library = _load()
        self._checksum = checksum
        self._process = os.getpid()
        self._lock = threading.Lock()  # or a thread could submit to what another one closes
        self._pool = self._library.fastmim_reader_open(threads, max_bytes, checksum, largest, advice.encode())
        if not self._pool:
            raise RuntimeError(f"the system does not start {threads} more threads; ask for fewer")
        self._finalizer = weakref.finalize(self, _close, self._library, self._pool, self._process)

    def submit(self, paths: Sequence[str], pixels: Sequence[bool] | None = None) -> Batch:
        """Starts reading files and returns at once; batches submitted ahead are prefetched.

        Args:
            pixels: of each path, whether the pixels of a JPEG are checked too: a truncated or damaged one then has an
                `error`, where decoders would fill the rest with gray. Takes about a tenth of the time of decoding.
        Raises:
            ValueError: a path contains a zero byte.
            RuntimeError: the reader is closed, or belongs to the process from which this one was forked.
        """
        self._check_process()
        names = [os.fsencode(path) for path in paths]
        for name in names:
            if b"\0" in name:
                raise ValueError(f"expected file names, which have no zero bytes, got {name!r}")
        flags = bytes(len(names) if pixels is None else map(bool, pixels))
        joined = b"".join(name + b"\0" for name in names)
        with self._lock:
            if not self._finalizer.alive:
                raise RuntimeError("the reader is closed")
            batch = self._library.fastmim_reader_submit(self._pool, joined, flags, len(names))
        return Batch(self, batch, list(paths))

    def close(self) -> None:
        """Stops the threads; batches not yet read are given up. `File`s received stay valid."""
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
            raise RuntimeError("this reader belongs to another process (its threads do not survive a fork); make one")


def _close(library: ctypes.CDLL, pool: int, process: int) -> None:
    if os.getpid() == process:
        library.fastmim_reader_close(pool)


class Batch:
    """Files that are being read; made by `Reader.submit`. Dropping it gives them up."""

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
        """Waits; hands the files over, in the order of the paths, once.

        Raises:
            RuntimeError: the reader was closed before it had read them, they were handed over already, or this is a
                forked process.
        """
        self._reader._check_process()
        library, state = self._reader._library, 0
        taken = (_Taken * len(self._paths))()
        with self._lock:
            if not self._finalizer.alive:
                raise RuntimeError("the files of this batch were handed over already")
            while state == 0:
                state = library.fastmim_batch_wait(self._batch, 100)  # short, so that Ctrl-C is noticed
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
    """The header of an image in memory, or why it is hopeless: exactly one of the two is not None.

    Args:
        pixels: also looks through the pixels of a JPEG, see `Reader.submit`.
    Raises:
        RuntimeError: see `Reader`.
    """
    raw, error = _Header(), ctypes.create_string_buffer(256)
    _load().fastmim_parse_header(data, len(data), pixels, raw, error, len(error))
    return (None, error.value.decode()) if error.value else (_header(raw), None)


def xxh64(data: bytes) -> int:
    """XXH64 with seed 0 of bytes in memory, as `File.checksum` is of a file's.

    Raises:
        RuntimeError: see `Reader`.
    """
    return _load().fastmim_xxh64(data, len(data))
