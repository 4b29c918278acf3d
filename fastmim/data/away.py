"""Patience with files that cannot be read for a while: a folder that is away must not make its files bad.

May import fastmim_kernels.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from fastmim_kernels.reader import File

from ..host.files import open_regular
from ..host.terminal import shown
from .manifest import Manifest
from .quarantine import BadFilesError

AWAY_SECONDS = 300
"""Longest wait for a data folder of which nothing can be read."""

_FILE_PAUSES = (0.1, 0.4, 1.5)  # seconds
_FOLDER_PAUSES = (*_FILE_PAUSES, 3, 5, 10, 10)
_IN_VAIN = 2  # waits for parts of the data after which files are bad at once
_PROBES = 16


class DataAwayError(BadFilesError):
    """Nothing in the data folder can be read, and waiting has not helped."""


class Patience:
    """Reads files again that are not as listed, as long as they may come back. Any thread may use it.

    Three cases are told apart. If no file of the data can be read, the folder is away: the wait is long, and ends in an
    error, not in bad files. If the folder of a file is away, or the file alone, the wait is shorter, and whatever is
    still not there is bad. After two waits in vain, files are bad at once, until one comes back. The long wait happens
    once: later the error comes at once, so that whoever stops because of it need not wait again.
    """

    def __init__(self, manifest: Manifest, read: Callable[[list[int]], list[File]], largest: int):
        """
        Args:
            read: reads the images at these indices of the manifest.
            largest: bytes of a file that `read` reads.
        """
        self._manifest, self._read = manifest, read
        # What was listed with 0 bytes was not there then either, and is bad.
        self._sizes = range(1, largest + 1)
        full = [index for index, size in enumerate(manifest.sizes) if size in self._sizes]
        self._probes = full[:: -(-len(full) // _PROBES)] if full else []
        self._in_vain, self._gave_up, self._lock = 0, False, threading.Lock()

    def read(self, index: int) -> File:
        """Reads one image of the manifest, as `insist` does.

        Raises:
            DataAwayError: as `insist`.
        """
        files = self._read([index])
        self.insist([index], files)
        return files[0]

    def insist(self, indices: list[int], files: list[File]) -> None:
        """Reads those of `files` again, in place, that are not as listed; waits between attempts.

        Args:
            indices: of the images of the manifest that the files are.

        Raises:
            DataAwayError: the whole data folder is away for longer than `AWAY_SECONDS`.
        """
        lost = self._lost(indices, files)
        if not lost:
            return
        with self._lock:
            pauses = None
            while lost:
                if self._away():
                    self._wait()
                elif self._in_vain >= _IN_VAIN:
                    return
                else:
                    pauses = pauses or iter(self._pauses([indices[i] for i in lost]))
                    pause = next(pauses, None)
                    if pause is None:
                        self._in_vain += 1
                        return
                    time.sleep(pause)
                for i, file in zip(lost, self._read([indices[i] for i in lost]), strict=True):
                    files[i] = file
                before, lost = lost, self._lost(indices, files)
                if len(lost) < len(before):
                    self._in_vain = 0

    def _lost(self, indices: list[int], files: list[File]) -> list[int]:
        listed = (self._manifest.sizes[index] for index in indices)
        pairs = enumerate(zip(listed, files, strict=True))
        return [i for i, (size, file) in pairs if size in self._sizes and len(file.data) != size]

    def _away(self) -> bool:
        """True if not one of the files that were listed can be read, as far as a few can tell."""
        return bool(self._probes) and not any(map(self._readable, self._probes))

    def _readable(self, index: int) -> bool:
        try:
            with open_regular(self._manifest.path(index)) as file:
                return bool(file.read(1))
        except (OSError, ValueError):
            return False

    def _wait(self) -> None:
        """Waits until the data folder is back."""
        folder, start, pause = f"data folder {shown(self._manifest.root)}", time.monotonic(), 0.1
        if not self._gave_up:
            _say(f"{folder} is away, waiting up to {AWAY_SECONDS} s")
        while self._away():
            if self._gave_up or time.monotonic() - start > AWAY_SECONDS:
                self._gave_up = True
                raise DataAwayError(
                    f"{folder} has been away for {AWAY_SECONDS} s: none of its files can be read; mount or restore it"
                )
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        _say(f"{folder} is back after {time.monotonic() - start:.1f} s")

    def _pauses(self, lost: list[int]) -> tuple[float, ...]:
        folders = {os.path.dirname(self._manifest.path(index)) for index in lost}
        if gone := sorted(folder for folder in folders if not os.access(folder, os.R_OK | os.X_OK)):
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            _say(f"data folder {shown(gone[0])}{more} is away, waiting up to {sum(_FOLDER_PAUSES):.0f} s")
            return _FOLDER_PAUSES
        return _FILE_PAUSES


def _say(text: str) -> None:
    """One process of each machine says it: all see the same."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)
