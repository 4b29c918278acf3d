"""The run folder: the names that a run writes, and the lock that one process holds."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..host.files import open_append
from ..host.terminal import shown

FOLDERS = ("checkpoints", "encoder", "features", "grids", "tensorboard")
"""Folders inside a run folder that fastmim writes to."""
RECORDS = (
    *("config.json", "facts.json", "manifest.json", "metrics.jsonl", "trace.jsonl", "skipped.jsonl"),
    *("result.json", "bad_files.jsonl", "bad_test_files.jsonl", "loss.png", "summary.png", "grids", "encoder"),
    "tensorboard",
)
"""Names that training writes, except `checkpoints` and `lock`. A run writes `lock` first."""
_HOLDER = 200  # bytes of a lock that are read


class FolderError(RuntimeError):
    """Error: a run folder cannot be used in its present state."""


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[BinaryIO]:
    """Claims a run folder with `lock`; removes new folders and a new lock if the `with` block fails."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    new, held = not os.path.lexists(folder / "lock"), None
    try:
        held = lock(folder)
        yield held
    except BaseException:
        if new and held:  # otherwise the lock belongs to a process that came first
            with contextlib.suppress(OSError):
                os.unlink(folder / "lock")
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def lock(folder: Path) -> BinaryIO:
    """Claims a run folder for this process until the returned file is closed or the process ends.

    Raises:
        FolderError: another process holds the folder, and the message names that process; or the folder holds files
            that no run has written and that training would replace; or a folder inside is a link.
        ValueError: the lock is no regular file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if links := [name for name in FOLDERS if (folder / name).is_symlink()]:
        raise FolderError(
            f"{shown(folder / links[0])} is a link, and a run writes inside its folder only: remove the link, or make "
            "run.dir itself a link"
        )
    known = any(os.path.lexists(folder / name) for name in ("lock", "checkpoints"))
    if not known and (others := [name for name in RECORDS if os.path.lexists(folder / name)]):
        raise FolderError(
            f"{shown(folder)} holds {others[0]}, which no run has written: choose another run.dir, or move that away"
        )
    try:
        file = open_append(folder / "lock")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ValueError(f"{shown(folder / 'lock')}: expected a file, found a link: remove it") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise FolderError(
            f"{shown(folder)} is in use by {_holder(folder)}: stop it, or choose another run folder"
        ) from None
    if not _is_at(file, folder / "lock"):  # a process that was refused has just removed the lock
        file.close()
        return lock(folder)
    with contextlib.suppress(OSError):  # on a full disk the lock works too, but names no process
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return file


def _is_at(file: BinaryIO, path: Path) -> bool:
    """True if an open file still has this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _holder(folder: Path) -> str:
    """Returns the process that holds a run folder, in words."""
    try:
        with open(folder / "lock", "rb") as file:
            return shown(file.read(_HOLDER).decode(errors="replace").strip()) or "another process"
    except FileNotFoundError:  # that process was refused, and removed its lock
        return "another process"
