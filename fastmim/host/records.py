"""Side files of a run: JSON lines and small JSON files beside the checkpoints. Standard library only.

A side file may be damaged, or the disk full: neither ends a run, and only checkpoints decide how one is continued.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .files import open_append, open_regular, read_bytes, write, writing
from .terminal import reason, shown

LONGEST = 1 << 24
"""Bytes of the longest line that is read."""
Row = dict[str, Any]


def read_rows(path: Path, sound: Callable[[Row], bool]) -> list[Row]:
    """Returns the readable rows of a file of JSON lines, none if the file is missing or unreadable.

    Args:
        sound: tells a row from a damaged one.
    """
    try:
        return [row for _, row in _lines(path, sound) if row is not None]
    except (OSError, ValueError):
        return []


def read_object(path: Path) -> Row:
    """Returns the JSON object that a small file holds, {} if the file is missing, damaged or too large."""
    try:
        return parse(read_bytes(path, LONGEST), lambda row: True) or {}
    except (OSError, ValueError):
        return {}


def parse(line: bytes, sound: Callable[[Row], bool]) -> Row | None:
    """Returns a line's JSON object if it is `sound`, else None."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and sound(row) else None


def is_count(value: Any) -> bool:
    """True if a value can be a number of updates."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def put(path: Path, content: str, say: Callable[[str], None]) -> None:
    """Writes a side file, whole or not at all; what is no file is set aside, and a refusal of the system is said."""
    try:
        _make_way(path, say)
        write(path, content)
    except (OSError, ValueError) as error:
        say(f"warning: {shown(path.name)} could not be written ({reason(error)}); the run goes on")


class Records:
    """A file of JSON lines that a run appends to: repaired when it is opened, never a reason to stop.

    Lines of updates that the run is about to repeat are dropped. A damaged file is set aside under another name, and
    its readable lines are kept. A line that cannot be written is dropped, with one warning until lines can be written
    again. Each line is with the system once `append` returns.

    Args:
        path: the file, made if missing.
        sound: tells a row from a damaged one.
        keep: tells which sound rows stay.
        say: prints a line.
    """

    def __init__(
        self, path: Path, sound: Callable[[Row], bool], keep: Callable[[Row], bool], say: Callable[[str], None]
    ):
        self._path, self._say = path, say
        self._file: BinaryIO | None = None
        self._missing = 0
        try:
            _make_way(path, say)
            self._repair(sound, keep)
        except (OSError, ValueError) as error:
            self._warn(error)

    def append(self, row: Row) -> None:
        """Writes a row."""
        size = None
        try:
            if self._file is None:
                self._file = open_append(self._path)
            size = os.fstat(self._file.fileno()).st_size
            line = json.dumps(row).encode() + b"\n"
            if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
                line = b"\n" + line
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except (OSError, ValueError) as error:
            if size is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file.fileno(), size)
            self._warn(error)
            self._missing += 1
            return
        if self._missing:
            self._say(f"{shown(self._path.name)} is written again; {self._missing} lines are missing in it")
            self._missing = 0

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _warn(self, error: Exception) -> None:
        if not self._missing:
            self._say(f"warning: {shown(self._path.name)} could not be written ({reason(error)}); the run goes on")

    def _repair(self, sound: Callable[[Row], bool], keep: Callable[[Row], bool]) -> None:
        """Leaves the lines that stay: cuts the others off the end, or writes the file anew."""
        if not self._path.exists():
            return
        end = whole = damaged = 0
        scattered = False
        for line, row in _lines(self._path, sound):
            whole += len(line)
            torn = row is None and line.startswith(b"{") and not line.endswith(b"\n") and len(line) < LONGEST
            damaged += row is None and not torn
            if row is None or not keep(row):
                continue
            if whole - len(line) == end:
                end = whole
            else:
                scattered = True
        if not damaged and not scattered:
            os.truncate(self._path, end)
            return
        kept = [line for line, row in _lines(self._path, sound) if row is not None and keep(row)]
        if damaged:
            aside = _set_aside(self._path)
            self._say(
                f"warning: {shown(self._path.name)} is damaged: its {len(kept)} readable lines are kept, "
                f"the file itself as {shown(aside.name)}"
            )
        with writing(self._path) as file:
            file.writelines(line if line.endswith(b"\n") else line + b"\n" for line in kept)


def _lines(path: Path, sound: Callable[[Row], bool]) -> Iterator[tuple[bytes, Row | None]]:
    """Yields each line with its row, None for a damaged one; nothing behind a line that is too long is read."""
    with open_regular(path) as file:
        while line := file.readline(LONGEST):
            too_long = len(line) == LONGEST and not line.endswith(b"\n")
            yield line, None if too_long else parse(line, sound)
            if too_long:
                return


def _make_way(path: Path, say: Callable[[str], None]) -> None:
    """Sets aside a folder, link, pipe or device that has the name of a side file."""
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        aside = _set_aside(path)
        say(f"warning: {shown(path.name)}: expected a file, found something else, which is now {shown(aside.name)}")


def _set_aside(path: Path) -> Path:
    """Renames what is at `path` and returns its new name."""
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    os.rename(path, aside)
    return aside
