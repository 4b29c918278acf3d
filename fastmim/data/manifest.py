"""The manifest: the sorted list of image files that sample indices refer to. Standard library only."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..host.files import writing
from ..host.terminal import shown
from . import manifest_file
from .scan import describe_reasons, scan_folder, scan_list

MAX_IMAGES = 2**32  # a sample id holds the index in 32 bits

_FIRST = 100  # at least one of the first files of a saved manifest must exist


@dataclass(frozen=True)
class Manifest:
    """An ordered list of image files.

    Files are sorted by the bytes of their relative path, so the order depends on neither locale nor file system.
    """

    root: str
    """Absolute path of the folder that `paths` are relative to."""
    paths: list[str]
    """POSIX paths.
    A path is absolute only if a list file names a file outside the folder of the list. A folder that could not be read
    is listed too, with a slash at the end."""
    sizes: list[int]
    """Bytes of each file; 0 if the file is missing or cannot be examined."""
    labels: list[int] | None
    """Class of each image: the number after its path in a list file, or the index of its class folder.
    None if the list has no numbers, or if an image of a folder is not exactly one folder below the root."""
    checksums: list[int] | None = None
    """XXH64 of the bytes of each file (0 = could not be read), written by `fastmim doctor`; else None."""
    left_out: Counter[str] = field(default_factory=Counter, compare=False)
    """Number of files that `scan` saw but did not list, by reason. `save` leaves this field out."""

    @classmethod
    def scan(cls, root: str, setting: str = "", say: Callable[[str], None] = lambda line: None) -> Manifest:
        """Lists the images of a folder, a list file or a saved manifest.

        * Folder (flat, nested or by class): hidden names are ignored and links are followed. Every folder is read once,
          so loops end. The extension or the first bytes of a file tell whether the file is an image.
        * List file: one image a line, optionally followed by white space and a label (the lists of UM-MAE). A path is
          absolute or relative to the list's folder. Blank lines and lines that start with # are ignored.
        * Manifest (x.json): used as written. `difference` later finds changed files.

        A file or folder that is missing or cannot be examined is listed with 0 bytes. Such a file is a bad file of the
        run and counts in `data.bad_budget`.

        Args:
            root: path of the folder, list file or manifest.
            setting: name of the setting that holds `root`, for the message if nothing is there.
            say: takes lines about the progress, see `scan.scan_folder`.

        Raises:
            FileNotFoundError: `root` does not exist, or none of the files of a list, or none of the first files of a
                manifest.
            OSError: `root` cannot be read.
            ValueError: there are no images or too many, only some lines have a label, or the file is of another kind.
        """
        if not root:
            raise ValueError("expected a folder of images, a list file or a manifest, got an empty path")
        root = os.path.abspath(root)
        try:
            mode = os.stat(root).st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            said = f"no folder of images or list file at {shown(root)}"
            raise FileNotFoundError(f"{setting}: {said}; give --{setting} FOLDER" if setting else said) from error
        except OSError as error:
            raise OSError(f"{shown(root)} cannot be examined: {error.strerror}") from error
        if root.endswith(".json") and stat.S_ISREG(mode):
            manifest = cls.load(root)
            # A missing file is one bad file. If all are missing, the folder was moved or is not mounted.
            if not any(os.path.lexists(manifest.path(index)) for index in range(min(len(manifest), _FIRST))):
                raise FileNotFoundError(
                    f"{shown(root)} lists images in {shown(manifest.root)}, but none of the first {_FIRST} is there: "
                    "mount or restore that folder, or write a manifest of where they are now with "
                    "`fastmim doctor FOLDER`"
                )
            return manifest
        if stat.S_ISDIR(mode):
            (entries, left_out), labels = scan_folder(root, say), None
        else:
            entries, labels, left_out = scan_list(root)
            root = os.path.dirname(root)
        if len(entries) > MAX_IMAGES:
            raise ValueError(f"{shown(root)} has {len(entries)} images; a sample id can count {MAX_IMAGES}")
        order = sorted(range(len(entries)), key=lambda i: os.fsencode(entries[i][0]))
        paths = [entries[i][0] for i in order]
        labels = _class_labels(paths) if labels is None else [labels[i] for i in order]
        return cls(root, paths, [entries[i][1] for i in order], labels, left_out=left_out)

    @classmethod
    def load(cls, path: str) -> Manifest:
        """Reads a manifest that `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is not a manifest, or was edited; the message names the field.
        """
        columns, expected = manifest_file.read(path)
        manifest = cls(**columns)
        if manifest.hash != expected:
            raise ValueError(
                f"{shown(path)} is damaged: its entries do not fit the hash it gives, {shown(expected[:64])}"
            )
        return manifest

    def save(self, path: str) -> None:
        """Writes the manifest as JSON, atomically.

        A manifest inside its own root can be moved with the folder.
        """
        inside = os.path.dirname(os.path.abspath(path)) == self.root
        columns = {"hash": self.hash, "root": "." if inside else self.root}
        columns |= {"paths": self.paths, "sizes": self.sizes, "labels": self.labels}
        with writing(Path(path), "w") as file:
            manifest_file.write(file, columns, self.checksums)

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of relative paths and sizes.

        Sample ids mean the same images in all manifests with the same hash.
        """
        entries = zip(self.paths, self.sizes, strict=True)
        return hashlib.sha256(b"".join(b"%b\0%d\0" % (os.fsencode(path), size) for path, size in entries)).hexdigest()

    def path(self, index: int) -> str:
        """Returns the path of image `index`."""
        return os.path.join(self.root, self.paths[index])

    def difference(self, index: int, size: int, checksum: int | None) -> str | None:
        """Describes the difference between a file and the listed file; returns None if there is none.

        Args:
            index: manifest index of the file.
            size: bytes that were read.
            checksum: XXH64 of these bytes; may be None if the manifest has no checksums.
        """
        if size != self.sizes[index]:
            return f"changed since it was listed: {self.sizes[index]} bytes then, {size} now"
        if self.checksums is not None and checksum != self.checksums[index]:
            return f"changed since it was listed: checksum {self.checksums[index]:016x} then, {checksum or 0:016x} now"
        return None

    def remarks(self) -> list[str]:
        """Returns remarks on unused files, one phrase each; an empty list if all files are used."""
        found = []
        if total := self.left_out.total():
            found.append(f"{total} {'file' if total == 1 else 'files'} left out: {describe_reasons(self.left_out)}")
        if empty := self.sizes.count(0):
            first = shown(self.paths[self.sizes.index(0)])
            found.append(f"{empty} missing, empty or unreadable, such as {first}")
        return found

    def __len__(self) -> int:
        return len(self.paths)


def _class_labels(paths: list[str]) -> list[int] | None:
    # A folder that could not be read is a class, or lies in the folder of its class.
    if any(path.count("/") != 1 for path in paths if not path.endswith("/")):
        return None
    folders = [path.partition("/")[0] for path in paths]
    index = {folder: i for i, folder in enumerate(sorted(set(folders), key=os.fsencode))}
    return [index[folder] for folder in folders]
