"""The quarantine: the bad files of a run, the images that replace them, and the list of bad files."""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Callable, Container
from pathlib import Path

import torch
from torch import Tensor

from fastmim_kernels.philox import philox

from ..host.files import open_append, open_regular
from ..host.records import LONGEST, Records, Row, parse, read_rows
from ..host.terminal import reason as why
from ..host.terminal import shown
from ..samples import Stream
from .manifest import Manifest

_ATTEMPTS = 64  # largest number of substitutes of an image


class BadFilesError(ValueError):
    """Error: images cannot be used, and no other images can replace them. The run saves and stops."""


def recheck_list(file: Path, still_bad: Callable[[list[str]], Container[str]], say: Callable[[str], None]) -> None:
    """Repairs a run's bad_files.jsonl before any process opens it, and removes files that are good again.

    Args:
        file: path of bad_files.jsonl.
        still_bad: takes the listed paths and returns the paths that are still bad.
        say: prints a line.
    """
    listed = list(dict.fromkeys(row["path"] for row in read_rows(file, is_entry)))
    bad = still_bad(listed)
    if good := [path for path in listed if path not in bad]:
        say(f"{file.name}: {len(good)} of {len(listed)} files are good now, such as {shown(good[0])}")
    Records(file, is_entry, lambda row: row["path"] in bad, say).close()


class Quarantine:
    """The bad files of a run and the images that replace them.

    The substitute of image i is the first good image in a list that is drawn from the seed and i. Good or bad depends
    only on the bytes of a file. So every process chooses the same substitute, whatever bad files it has found so far.
    Disks that fail for a while are the subject of `availability.py`.

    The list of bad files, bad_files.jsonl, is for people and for `data.bad_budget`. The list does not choose samples:
    each process finds bad files itself. So the next start of the run uses a repaired file again.
    """

    def __init__(self, manifest: Manifest, seed: int, file: Path | None = None, labels: Tensor | None = None):
        """Reads the list of bad files, if there is one.

        Args:
            manifest: the images.
            seed: seed of the substitutes, 0 <= seed < 2**64.
            file: path of bad_files.jsonl, shared by all processes of a run and its continuations; None = no list.
            labels: (N,), the class of each image. If given, a substitute has the class of the bad image.
        """
        self._labels = labels
        self._manifest, self._seed, self._file = manifest, seed, file
        self._bad: set[int] = set()
        self._named: dict[str, str] = {}  # path: reason
        self._offset, self._failing = 0, False
        if file is not None:
            self._read_named(file)

    def resolve(self, index: int, pool: Tensor) -> int:
        """Returns the index of the image to load in place of image `index`.

        Args:
            index: manifest index of the image.
            pool: (N,) int64, manifest indices of the images that may replace a bad image.

        Returns: `index`, or the first substitute not known to be bad.

        Raises:
            BadFilesError: the image and all its substitutes are bad.
        """
        if index not in self._bad:
            return index
        if self._labels is not None:
            pool = pool[self._labels[pool] == self._labels[index]]
        draws = philox(self._seed, Stream.SUBSTITUTE, torch.tensor([index]), _ATTEMPTS)[0]
        for substitute in pool[draws % len(pool)].tolist() if len(pool) else ():
            if substitute not in self._bad:
                return substitute
        reason = self._named[self._manifest.paths[index]]
        others = f", nor can any of its {_ATTEMPTS} substitutes" if len(pool) else ""
        raise BadFilesError(
            f"{shown(self._manifest.path(index))} cannot be used ({reason}){others}; "
            "run `fastmim doctor` on data.root to see what is wrong with each file"
        )

    def add(self, index: int, reason: str) -> None:
        """Marks image `index` as bad, and adds the file to the list if the list lacks the file."""
        self._bad.add(index)
        path = self._manifest.paths[index]
        if path in self._named:
            return
        if self._file is not None:
            try:
                self._append(self._file, path, reason)
            except (OSError, ValueError) as error:
                if not self._failing:
                    text = f"{shown(path)} could not be added to {shown(self._file)}: {why(error)}"
                    warnings.warn(text, stacklevel=2)
                self._failing = True
            else:
                self._failing = False
        self._named.setdefault(path, reason)

    def bad_files(self) -> dict[str, str]:
        """Returns the bad files that any process of the run has found, now or earlier: {path: reason}."""
        if self._file is not None:
            self._read_named(self._file)
        return self._named

    def _append(self, list_file: Path, path: str, reason: str) -> None:
        with open_append(list_file) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            self._read_named(list_file)
            if path not in self._named:
                # A process that was killed while writing leaves half a line, which must not join the new line.
                size = os.fstat(file.fileno()).st_size
                gap = "\n" * (size > self._offset)
                line = f"{gap}{json.dumps({'path': path, 'reason': reason})}\n".encode()
                if file.write(line) != len(line):  # a full disk accepts only a part
                    os.ftruncate(file.fileno(), size)
                    raise OSError("no space left")

    def _read_named(self, list_file: Path) -> None:
        """Reads the lines appended since the last call; leaves out damaged and unfinished lines."""
        try:
            with open_regular(list_file) as file:
                file.seek(self._offset)
                while (line := file.readline(LONGEST)).endswith(b"\n"):
                    self._offset += len(line)
                    if entry := parse(line, is_entry):
                        self._named.setdefault(entry["path"], entry["reason"])
        except (OSError, ValueError):
            return


def is_entry(row: Row) -> bool:
    """True if a row of a list of bad files has a path and a reason."""
    return isinstance(row.get("path"), str) and isinstance(row.get("reason"), str)
