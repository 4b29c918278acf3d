"""Side files of a run: JSON lines and small JSON files beside the checkpoints. Standard library only.

A damaged side file or a full disk never ends a run. A run continues from its checkpoints alone.
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

from .files import open_append, open_regular, write, writing
from .terminal import reason, shown

LONGEST = 1 << 24
"""Largest number of bytes that are read of a line."""
Row = dict[str, Any]


def read_rows(path: Path, sound: Callable[[Row], bool]) -> list[Row]:
    """Returns the readable rows of a file of JSON lines; [] if the file is missing or unreadable.

    Args:
        path: path of the file.
        sound: returns True for a row that is not damaged.
    """
    try:
        return [row for _, row in _lines(path, sound) if row is not None]
    except (OSError, ValueError):
        return []


def parse(line: bytes, sound: Callable[[Row], bool]) -> Row | None:
    """Returns the JSON object in a line, or None if the line is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and sound(row) else None


def is_count(value: Any) -> bool:
    """True if a value is a valid number of updates."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def put(path: Path, content: str, say: Callable[[str], None]) -> None:
    """Writes a whole side file, or prints a warning.

    A folder, link or device that has the name of the file is renamed first.
    """
    try:
        _make_way(path, say)
        write(path, content)
    except (OSError, ValueError) as error:
        say(f"warning: {shown(path.name)} could not be written ({reason(error)}); the run goes on")


class Records:
    """A file of JSON lines that a run appends to; errors of the file never stop the run.

    Opening repairs the file. Lines of updates that the run will repeat are dropped. A damaged file is renamed after its
    readable lines are copied. A line that cannot be written is dropped, with one warning until writing works again.
    When `append` returns, the operating system has the line.

    Args:
        path: path of the file, created if missing.
        sound: returns True for a row that is not damaged.
        keep: returns True for rows that stay in the file.
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
        """Appends a row, or prints a warning."""
        file, size = self._file, None
        try:
            if file is None:
                file = self._file = open_append(self._path)
            size = os.fstat(file.fileno()).st_size
            line = json.dumps(row).encode() + b"\n"
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                line = b"\n" + line
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except (OSError, ValueError) as error:
            if file is not None and size is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), size)
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
        """Drops damaged lines and unwanted rows, by truncating the file or by writing a new file."""
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
    """Yields each line with its row, or with None if damaged; stops after a line that is too long."""
    with open_regular(path) as file:
        while line := file.readline(LONGEST):
            too_long = len(line) == LONGEST and not line.endswith(b"\n")
            yield line, None if too_long else parse(line, sound)
            if too_long:
                return


def _make_way(path: Path, say: Callable[[str], None]) -> None:
    """Renames a folder, link, pipe or device that has the name of a side file."""
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        aside = _set_aside(path)
        say(f"warning: {shown(path.name)}: expected a file, found something else, which is now {shown(aside.name)}")


def _set_aside(path: Path) -> Path:
    """Renames the file or folder at `path` to NAME.damaged, and returns the new path."""
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    os.rename(path, aside)
    return aside
