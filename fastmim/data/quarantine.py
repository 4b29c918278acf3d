"""Quarantine: the bad files of a run, the images that take their place, and the list of bad files.

May import torch, tokens, records and fastmim_kernels.
"""

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

_ATTEMPTS = 64


class BadFilesError(ValueError):
    """Images cannot be used, and no others can take their place: the run saves and stops."""


def recheck_list(file: Path, still_bad: Callable[[list[str]], Container[str]], say: Callable[[str], None]) -> None:
    """Repairs a run's bad_files.jsonl before its processes open it, and drops the files that are not bad any more.

    Args:
        still_bad: returns those of the listed paths that stay.
        say: prints a line.
    """
    listed = list(dict.fromkeys(row["path"] for row in read_rows(file, is_entry)))
    bad = still_bad(listed)
    if good := [path for path in listed if path not in bad]:
        say(f"{file.name}: {len(good)} of {len(listed)} files are good now, such as {shown(good[0])}")
    Records(file, is_entry, lambda row: row["path"] in bad, say).close()


class Quarantine:
    """Replaces bad files, each by an image that depends on the seed and its own index only, and names each once.

    Which file is bad is a property of its bytes (or of a disk that fails for good: see `away`), and the substitute of
    image i is the first good one in a list drawn for i: so every process, whatever it has found so far, puts the same
    image in the same place. The list of bad files is for people and for the budget. It decides nothing about samples:
    every process finds anew which files are bad. So a file that was mended is used again from the next start on.
    """

    def __init__(self, manifest: Manifest, seed: int, file: Path | None = None, labels: Tensor | None = None):
        """
        Args:
            seed: of the substitutes, 0 <= seed < 2**64.
            file: bad_files.jsonl, shared by all processes of a run and by its continuations; None = no list.
            labels: (N,) of all images, where only one of the same label may take an image's place.
        """
        self._labels = labels
        self._manifest, self._seed, self._file = manifest, seed, file
        self._bad: set[int] = set()
        self._named: dict[str, str] = {}  # path: reason
        self._offset, self._failing = 0, False
        if file is not None:
            self._read_named()

    def resolve(self, index: int, pool: Tensor) -> int:
        """Returns the image to load for image `index`: itself, or its first substitute from `pool` not known to be bad.

        Raises:
            BadFilesError: all of its substitutes are bad.
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
        """Notes that image `index` cannot be used, and names it in the list unless it is there."""
        self._bad.add(index)
        path = self._manifest.paths[index]
        if path in self._named:
            return
        if self._file is not None:
            try:
                self._append(path, reason)
            except (OSError, ValueError) as error:
                if not self._failing:
                    text = f"{shown(path)} could not be added to {shown(self._file)}: {why(error)}"
                    warnings.warn(text, stacklevel=2)
                self._failing = True
            else:
                self._failing = False
        self._named.setdefault(path, reason)

    def bad_files(self) -> dict[str, str]:
        """Every bad file found by any process of the run, this one and earlier: {path: reason}."""
        if self._file is not None:
            self._read_named()
        return self._named

    def _append(self, path: str, reason: str) -> None:
        with open_append(self._file) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            self._read_named()
            if path not in self._named:
                # A process killed while writing leaves half a line; it then stands alone.
                size = os.fstat(file.fileno()).st_size
                gap = "\n" * (size > self._offset)
                line = f"{gap}{json.dumps({'path': path, 'reason': reason})}\n".encode()
                if file.write(line) != len(line):  # a full disk takes a part
                    os.ftruncate(file.fileno(), size)
                    raise OSError("no space left")

    def _read_named(self) -> None:
        """Reads the whole lines appended since the last time; damaged ones, and half a line, are left out."""
        try:
            with open_regular(self._file) as file:
                file.seek(self._offset)
                while (line := file.readline(LONGEST)).endswith(b"\n"):
                    self._offset += len(line)
                    if entry := parse(line, is_entry):
                        self._named.setdefault(entry["path"], entry["reason"])
        except (OSError, ValueError):
            return


def is_entry(row: Row) -> bool:
    """True if a row of a list of bad files is sound."""
    return isinstance(row.get("path"), str) and isinstance(row.get("reason"), str)
