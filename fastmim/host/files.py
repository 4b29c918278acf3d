"""Files that somebody else may have made or prepared: read with limits, written whole and never through a link.

A run folder, a data folder or a checkpoint can come from a stranger. Every module opens files in such places with the
functions of this one. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

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
    """Opens a regular file for reading; a link is followed, a pipe or device is refused without waiting for it.

    Raises:
        OSError: the file cannot be opened.
        ValueError: `path` is not a regular file.
    """
    # O_NONBLOCK: opening a pipe without a writer would wait for ever. It means nothing for regular files.
    return os.fdopen(_checked(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), path), "rb")


def read_bytes(path: str | os.PathLike, limit: int) -> bytes:
    """Returns the content of a regular file of at most `limit` bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: `path` is not a regular file, or is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"{shown(path)}: expected at most {limit} bytes, found more")
        # No more than it has now: files below /proc say 0 and never end, others may grow.
        return file.read(size)


def read_json(path: str | os.PathLike, limit: int) -> Any:
    """Returns the value in a JSON file of at most `limit` bytes; NaN and infinity are refused.

    Raises:
        OSError: the file cannot be read.
        ValueError: `path` is not a regular file, is larger, or holds no JSON; the message names the file and the place.
    """
    try:
        return parse_json(read_bytes(path, limit))
    except JSONError as error:
        raise ValueError(f"{shown(path)}: {error}") from None


class JSONError(ValueError):
    """Text that is no JSON; the message says where."""


def _refuse_constant(name: str) -> None:
    raise JSONError(f"expected JSON, found {name}, which is no number")


def parse_json(
    content: bytes,
    change: Callable[[dict[str, Any]], Any] = lambda found: found,
    constant: Callable[[str], Any] = _refuse_constant,
) -> Any:
    """Returns the value in a JSON text in UTF-8; NaN, infinity and repeated keys are refused.

    Args:
        change: replaces each object as soon as it is parsed.
        constant: returns the value of NaN or an infinity; `float` where each number is checked later.

    Raises:
        JSONError: the text is no JSON.
    """
    try:
        return json.loads(
            content.decode("utf-8-sig"),
            parse_constant=constant,
            object_pairs_hook=lambda pairs: change(_unique(pairs)),
        )
    except UnicodeDecodeError as error:
        raise JSONError(f"expected JSON, found no text at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise JSONError(f"expected JSON, found none at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise JSONError("expected JSON, found more than a hundred values within each other") from None
    except JSONError:
        raise
    except ValueError:
        raise JSONError("expected JSON, found a number of thousands of digits") from None


def short(value: Any) -> str:
    """Returns a value of a foreign file for a message, as one short line of plain characters."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    printable = value.bit_length() < 10_000 if isinstance(value, int) else isinstance(value, str | float | None)
    if not printable:  # the text of other objects may be of any length, or hold a memory address
        return f"a value of type {type(value).__name__}"
    text = json.dumps(value[:60] if isinstance(value, str) else value, ensure_ascii=False)
    return shown(text if len(text) <= 64 else f"{text[:60]}...")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise JSONError(f"expected JSON, found the key {shown(key[:40])} twice")
    return found


def output(folder: Path, *names: str) -> Path:
    """Returns the path of an output inside a folder, after checking that no link leads it out of the folder.

    Args:
        folder: the folder that the user named; may be a link itself.
        names: folders below it, then the file.

    Raises:
        ValueError: a folder below `folder` is a link, so the output would lie elsewhere.
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
    """Opens a new file that takes the place of `path` at the end, whole or not at all; a link there is replaced.

    Args:
        path: file to write. Its folder must exist.
        mode: "wb", or "w" for UTF-8 text in which bytes of file names that are not text stay as they are.

    Raises:
        OSError: the file cannot be written; `path` is untouched.
        ValueError: `path` is a folder, pipe or device.
    """
    with contextlib.suppress(FileNotFoundError):
        _refuse(os.lstat(path).st_mode, path, stat.S_IFREG, stat.S_IFLNK)
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape"}
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, MODE), mode, **text) as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename == os.fspath(temporary):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise


def write(path: Path, content: bytes | str) -> None:
    """Writes a file with `writing`."""
    with writing(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)


@contextlib.contextmanager
def tidy_exit() -> Iterator[None]:
    """Inside, SIGTERM ends the program as an exception does: what is half written is removed."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def open_append(path: Path) -> BinaryIO:
    """Opens a regular file, made if missing, for unbuffered appending; a link is refused.

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
