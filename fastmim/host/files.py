"""Functions that open and write files safely, even in a folder that a stranger prepared.

They limit sizes, never wait for pipes, never write through links, and leave only whole files.

A run folder, a data folder or a checkpoint can come from a stranger. Every module opens files in such folders with
these functions. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from .terminal import shown

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link",
}
MODE = 0o644
"""Permissions of new files, before the umask."""


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Opens a regular file for reading.

    The function follows a link, and refuses a pipe or device without waiting for a writer.

    Raises:
        OSError: the file cannot be opened.
        ValueError: `path` is not a regular file.
    """
    # O_NONBLOCK: opening a pipe without a writer would wait for ever. The flag has no effect on regular files.
    return os.fdopen(_checked(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), path), "rb")


def read_bytes(path: str | os.PathLike, limit: int) -> bytes:
    """Returns the content of a regular file of at most `limit` bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: `path` is not a regular file, or is larger than `limit`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"{shown(path)}: expected at most {limit} bytes, found more")
        # Read only the present size, because files in /proc report 0 and never end, and other files may grow.
        return file.read(size)


def output(folder: Path, *names: str) -> Path:
    """Returns the path of an output, after checking that no link leads out of the folder.

    Args:
        folder: the folder that the user named; may be a link itself.
        names: folders below `folder`, then the file name.

    Raises:
        ValueError: a folder below `folder` is a link that leads out of `folder`.
    """
    path = folder.joinpath(*names)
    expected = os.path.join(os.path.realpath(folder), *names[:-1])
    if (found := os.path.realpath(path.parent)) != expected:
        raise ValueError(
            f"{shown(path)}: expected a folder inside {shown(folder)}, but a link leads to {shown(found)}; "
            "remove the link, or name that folder itself"
        )
    return path


@contextlib.contextmanager
def writing(path: Path, mode: str = "wb") -> Iterator[IO]:
    """Opens a new file that replaces `path` at the end of the `with` block.

    After an error, `path` is untouched.

    A link at `path` is replaced, not followed.

    Args:
        path: file to write. The folder of `path` must exist.
        mode: "wb", or "w" for UTF-8 text. Text may hold file names that are not valid UTF-8; their bytes are kept.

    Raises:
        OSError: the file cannot be written; `path` is untouched.
        ValueError: `path` is a folder, pipe or device.
    """
    with contextlib.suppress(FileNotFoundError):
        _refuse(os.lstat(path).st_mode, path, stat.S_IFREG, stat.S_IFLNK)
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "surrogateescape")
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, MODE), mode, encoding=encoding, errors=errors) as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename == os.fspath(temporary):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise


def write(path: Path, content: bytes | str) -> None:
    """Writes a whole file, see `writing`."""
    with writing(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)


@contextlib.contextmanager
def tidy_exit() -> Iterator[None]:
    """Turns SIGTERM into SystemExit inside the `with` block, so that half-written files are removed."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def open_append(path: Path) -> BinaryIO:
    """Opens a regular file for unbuffered appending; creates a missing file and refuses a link.

    Raises:
        OSError: the file cannot be opened; for a link, `errno.ELOOP`.
        ValueError: `path` is not a regular file.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.fdopen(_checked(os.open(path, flags, MODE), path), "ab", buffering=0)


def _checked(descriptor: int, path: str | os.PathLike) -> int:
    try:
        _refuse(os.fstat(descriptor).st_mode, path, stat.S_IFREG)
    except ValueError:
        os.close(descriptor)
        raise
    return descriptor


def _refuse(mode: int, path: str | os.PathLike, *allowed: int) -> None:
    if (kind := stat.S_IFMT(mode)) not in allowed:
        raise ValueError(f"{shown(path)}: expected a file, found {_KINDS.get(kind, 'something else')}")
