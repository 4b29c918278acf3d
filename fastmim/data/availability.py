"""Waiting for files that cannot be read for a while, such as files of an unmounted folder.

Without waiting, a short outage would make every file of the folder a bad file.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from fastmim_kernels.reader import File

from ..host.files import open_regular
from ..host.terminal import shown
from .image import Limits, read_image
from .manifest import Manifest
from .quarantine import BadFilesError

MAX_WAIT = 300
"""Longest wait, in seconds, for a data folder in which no file can be read."""

_FILE_PAUSES = (0.1, 0.4, 1.5)  # seconds between attempts to read single files
_FOLDER_PAUSES = (*_FILE_PAUSES, 3, 5, 10, 10)
_MAX_FAILED_WAITS = 2  # after so many, unreadable files are bad at once
_PROBES = 16  # files that stand for the whole folder


class DataUnavailableError(BadFilesError):
    """Error: no file of the data folder can be read, even after waiting."""


class RetryingReader:
    """A reader of image files that tries again if a file is missing or has an unexpected size.

    The length of the wait depends on how much is unavailable:

    * No file of the data can be read: the wait is long. If waiting does not help, an error is raised and no file is
      bad. The long wait happens only once. Later the error is raised at once, so a stopping run does not wait again.
    * Only a folder below the root, or a single file, cannot be read: the wait is short. Files that stay unreadable are
      bad. After two waits without success, unreadable files are bad at once, until a file can be read again.

    Any thread may use the reader.
    """

    def __init__(self, manifest: Manifest, read: Callable[[list[int]], list[File]], largest: int):
        """Chooses a few files that show whether the data folder can be read.

        Args:
            manifest: the listed files.
            read: reads the images at the given indices of the manifest.
            largest: size in bytes of the largest file that `read` reads.
        """
        self._manifest, self._read = manifest, read
        # Files listed with 0 bytes were unreadable from the start: waiting would not help.
        self._sizes = range(1, largest + 1)
        full = [index for index, size in enumerate(manifest.sizes) if size in self._sizes]
        self._probes = full[:: -(-len(full) // _PROBES)] if full else []
        self._failed_waits, self._gave_up, self._lock = 0, False, threading.Lock()

    def read(self, index: int) -> File:
        """Reads one image of the manifest, with `retry`.

        Raises:
            DataUnavailableError: no file of the data folder could be read for `MAX_WAIT` seconds.
        """
        files = self._read([index])
        self.retry([index], files)
        return files[0]

    def retry(self, indices: list[int], files: list[File]) -> None:
        """Reads missing or changed files again, with pauses, until all are as listed or the wait is over.

        Args:
            indices: index in the manifest of each file.
            files: the files as first read; entries are replaced in place.

        Raises:
            DataUnavailableError: no file of the data folder could be read for `MAX_WAIT` seconds.
        """
        missing = self._missing(indices, files)
        if not missing:
            return
        with self._lock:
            pauses = None
            while missing:
                if self._is_away():
                    self._wait()
                elif self._failed_waits >= _MAX_FAILED_WAITS:
                    return
                else:
                    pauses = pauses or iter(self._pauses([indices[i] for i in missing]))
                    pause = next(pauses, None)
                    if pause is None:
                        self._failed_waits += 1
                        return
                    time.sleep(pause)
                for i, file in zip(missing, self._read([indices[i] for i in missing]), strict=True):
                    files[i] = file
                before, missing = missing, self._missing(indices, files)
                if len(missing) < len(before):
                    self._failed_waits = 0

    def _missing(self, indices: list[int], files: list[File]) -> list[int]:
        """Returns the positions of files that do not have their listed size."""
        listed = (self._manifest.sizes[index] for index in indices)
        pairs = enumerate(zip(listed, files, strict=True))
        return [i for i, (size, file) in pairs if size in self._sizes and len(file.data) != size]

    def _is_away(self) -> bool:
        """True if the folder seems unreachable: none of a few sample files (`_probes`) can be read."""
        return bool(self._probes) and not any(map(self._readable, self._probes))

    def _readable(self, index: int) -> bool:
        try:
            with open_regular(self._manifest.path(index)) as file:
                return bool(file.read(1))
        except (OSError, ValueError):
            return False

    def _wait(self) -> None:
        """Waits until a file of the data folder can be read."""
        folder, start, pause = f"data folder {shown(self._manifest.root)}", time.monotonic(), 0.1
        if not self._gave_up:
            _say(f"{folder} is away, waiting up to {MAX_WAIT} s")
        while self._is_away():
            if self._gave_up or time.monotonic() - start > MAX_WAIT:
                self._gave_up = True
                raise DataUnavailableError(
                    f"{folder} has been away for {MAX_WAIT} s: none of its files can be read; mount or restore it"
                )
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        _say(f"{folder} is back after {time.monotonic() - start:.1f} s")

    def _pauses(self, missing: list[int]) -> tuple[float, ...]:
        """Returns the pauses, in seconds, between attempts to read the images at these indices."""
        folders = {os.path.dirname(self._manifest.path(index)) for index in missing}
        if gone := sorted(folder for folder in folders if not os.access(folder, os.R_OK | os.X_OK)):
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            _say(f"data folder {shown(gone[0])}{more} is away, waiting up to {sum(_FOLDER_PAUSES):.0f} s")
            return _FOLDER_PAUSES
        return _FILE_PAUSES


def retrying_reader(manifest: Manifest, limits: Limits) -> RetryingReader:
    """Returns a reader of single files of a manifest."""

    def read(indices: list[int]) -> list[File]:
        return list(map(partial(read_image, limits=limits), map(manifest.path, indices)))

    return RetryingReader(manifest, read, limits.file_bytes)


def _say(text: str) -> None:
    """Prints a line to stderr in one process of each machine: all of them find the same files missing."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)
