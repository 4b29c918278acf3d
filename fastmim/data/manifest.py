"""The manifest: the sorted list of image files that sample indices refer to.

Standard library only.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass

EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"})
MAX_IMAGES = 2**32  # a sample id holds the index in 32 bits

_FIRST = 100
_FORMAT = "fastmim-manifest-1"
_LABELLED_LINE = re.compile(r"(.*\S)\s+(\d+)")


@dataclass(frozen=True)
class Manifest:
    """An ordered list of image files.

    Order is that of the bytes of the relative path, so it depends on neither the locale nor the file system.

    root: absolute path of the folder that `paths` are relative to.
    paths: POSIX paths; absolute only where a list file names a file outside its own folder.
    sizes: bytes of each file.
    labels: the numbers behind the paths of a list file; else the index of each image's class folder, if every image
        lies in a folder exactly one level down; else None.
    checksums: XXH64 of each file's bytes (0 = could not be read), as `fastmim doctor` found them; else None.
    """

    root: str
    paths: list[str]
    sizes: list[int]
    labels: list[int] | None
    checksums: list[int] | None = None

    @classmethod
    def scan(cls, root: str) -> Manifest:
        """Lists the images of a folder (flat, nested or by class), or those named by a text file or a saved manifest.

        Folders: hidden names are ignored, links are followed, and every folder is read once, so loops end; a link that
        leads nowhere is listed with 0 bytes, for whoever reads it to say so. List files: one image a line, optionally
        followed by white space and a label (the "path label" lists of UM-MAE); a path is absolute or relative to the
        list's folder; blank lines and lines that start with # are ignored. A manifest (x.json) is taken as it is:
        whoever reads a file asks `difference` whether it is still the one listed.

        Raises:
            FileNotFoundError: `root`, a file of the list, or the first files of a manifest, all of them, do not exist.
            ValueError: no images, too many, a line that names no image or one already named, labels on some lines only,
                not a manifest, or a damaged one.
        """
        root = os.path.abspath(root)
        if root.endswith(".json") and os.path.isfile(root):
            manifest = cls.load(root)
            # One that is missing is one bad file; all of them mean that the folder was moved, or is not mounted.
            if not any(os.path.lexists(manifest.path(index)) for index in range(min(len(manifest), _FIRST))):
                raise FileNotFoundError(
                    f"{root} lists images in {manifest.root}, but none of the first {_FIRST} is there: mount or "
                    "restore that folder, or write a manifest of where they are now with `fastmim doctor FOLDER`"
                )
            return manifest
        if os.path.isdir(root):
            entries, labels = _walk(root), None
        elif os.path.isfile(root):
            entries, labels = _read_list(root)
            root = os.path.dirname(root)
        else:
            raise FileNotFoundError(f"no folder of images or list file at {root}")
        if len(entries) > MAX_IMAGES:
            raise ValueError(f"{root} has {len(entries)} images; a sample id can count {MAX_IMAGES}")
        order = sorted(range(len(entries)), key=lambda i: os.fsencode(entries[i][0]))
        paths = [entries[i][0] for i in order]
        labels = _class_labels(paths) if labels is None else [labels[i] for i in order]
        return cls(root, paths, [entries[i][1] for i in order], labels)

    @classmethod
    def load(cls, path: str) -> Manifest:
        """Reads what `save` wrote.

        Raises:
            ValueError: not a manifest, or one that was changed since.
        """
        try:
            with open(path, encoding="ascii") as file:
                data = json.load(file)
            if data["format"] != _FORMAT:
                raise ValueError(f"its format is {data['format']!r}")
            # A folder, as the file says: its own, or that of an absolute path.
            root = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(path)), data["root"]))
            checksums = data.get("checksums")
            checksums = None if checksums is None else [int(checksum, 16) for checksum in checksums]
            manifest = cls(root, data["paths"], data["sizes"], data["labels"], checksums)
            counts = {len(column) for column in (manifest.sizes, manifest.labels, checksums) if column is not None}
            digest, expected = manifest.hash, data["hash"]
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a manifest (expected a JSON object of format {_FORMAT}): {error}"
            ) from error
        if digest != expected or counts != {len(manifest)}:
            raise ValueError(f"{path} is damaged: its entries do not fit the hash it gives, {expected}")
        return manifest

    def save(self, path: str) -> None:
        """Writes the manifest as JSON, atomically; one inside of the folder that it lists can be moved with it."""
        inside = os.path.dirname(os.path.abspath(path)) == self.root
        data = {"format": _FORMAT, "hash": self.hash, "root": "." if inside else self.root}
        data |= {"paths": self.paths, "sizes": self.sizes, "labels": self.labels}
        if self.checksums is not None:
            data["checksums"] = [f"{checksum:016x}" for checksum in self.checksums]
        temporary = f"{path}.tmp"
        # ASCII, because escapes are the only way JSON can carry file names that are not valid UTF-8.
        with open(temporary, "w", encoding="ascii") as file:
            json.dump(data, file)
        os.replace(temporary, path)

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of relative paths and sizes: what sample indices mean. A folder keeps it when moved."""
        entries = zip(self.paths, self.sizes, strict=True)
        return hashlib.sha256(b"".join(b"%b\0%d\0" % (os.fsencode(path), size) for path, size in entries)).hexdigest()

    def path(self, index: int) -> str:
        """Where image `index` is."""
        return os.path.join(self.root, self.paths[index])

    def difference(self, index: int, size: int, checksum: int | None) -> str | None:
        """How the bytes read from image `index` differ from those listed, in words; None = they do not."""
        if size != self.sizes[index]:
            return f"changed since it was listed: {self.sizes[index]} bytes then, {size} now"
        if self.checksums is not None and checksum != self.checksums[index]:
            return f"changed since it was listed: checksum {self.checksums[index]:016x} then, {checksum:016x} now"
        return None

    def __len__(self) -> int:
        return len(self.paths)


def is_image(name: str) -> bool:
    """Whether the name ends in one of `EXTENSIONS`, in any case."""
    return name.rpartition(".")[2].lower() in EXTENSIONS


def _walk(root: str) -> list[tuple[str, int]]:
    """(relative path, bytes) of every image below `root`."""
    found: list[tuple[str, int]] = []
    others = 0
    seen: set[tuple[int, int]] = set()
    # Real folders are read before links to folders, so that an image is known by its real name where it has one.
    folders, links = [""], []
    while folders or links:
        prefix = folders.pop() if folders else links.pop(0)
        folder = os.path.join(root, prefix)
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        new_links = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                mode, size = _look(entry)
                if stat.S_ISDIR(mode):
                    (new_links if entry.is_symlink() else folders).append(f"{prefix}{entry.name}/")
                # A pipe called x.jpg would block whoever opens it.
                elif stat.S_ISREG(mode) and is_image(entry.name):
                    found.append((prefix + entry.name, size))
                else:
                    others += 1
        links += sorted(new_links, key=os.fsencode)
    if not found:
        raise ValueError(
            f"no images in {root}: looked for {', '.join(sorted(EXTENSIONS))} in {len(seen)} folders "
            f"and saw {others} other files"
        )
    return found


def _look(path: os.DirEntry) -> tuple[int, int]:
    """(mode, bytes) of what a path is or leads to; a link that leads nowhere looks like an empty file."""
    try:
        status = os.stat(path)
    except OSError as error:
        if os.path.islink(path) and error.errno in (errno.ENOENT, errno.ELOOP):
            return stat.S_IFREG, 0
        raise
    return status.st_mode, status.st_size


def _read_list(path: str) -> tuple[list[tuple[str, int]], list[int] | None]:
    """(relative path, bytes) of every line, and their labels if they have any."""
    folder = os.path.dirname(path)
    found: list[tuple[str, int]] = []
    labels: list[int] = []
    lines: dict[str, int] = {}
    missing: list[str] = []
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            name = line
            # A name may hold spaces and end in a number, so a label is looked for only behind an image's extension.
            if not is_image(line) and (match := _LABELLED_LINE.fullmatch(line)):
                name = match[1]
                labels.append(int(match[2]))
            if not is_image(name):
                raise ValueError(
                    f"{path}, line {number}: expected the path of an image ({', '.join(sorted(EXTENSIONS))}), "
                    f"optionally followed by a label, got {line[:200]!r}"
                )
            full = os.path.normpath(os.path.join(folder, name))
            name = os.path.relpath(full, folder) if full.startswith(os.path.join(folder, "")) else full
            if name in lines:
                raise ValueError(f"{path}, line {number}: {name!r} is already on line {lines[name]}")
            lines[name] = number
            if os.path.isfile(full):
                found.append((name, os.path.getsize(full)))
            else:
                missing.append(full)
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise FileNotFoundError(f"{path} names files that do not exist: {', '.join(map(repr, missing[:5]))}{more}")
    if not found:
        raise ValueError(f"no images in {path}: expected the path of one a line")
    if labels and len(labels) != len(found):
        raise ValueError(f"{path}: {len(labels)} of {len(found)} lines have a label; expected all of them or none")
    return found, labels or None


def _class_labels(paths: list[str]) -> list[int] | None:
    if any(path.count("/") != 1 for path in paths):
        return None
    folders = [path.partition("/")[0] for path in paths]
    index = {folder: i for i, folder in enumerate(sorted(set(folders), key=os.fsencode))}
    return [index[folder] for folder in folders]
