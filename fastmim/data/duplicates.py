"""Files that occur in two lists of images, under the same path or with the same content."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..host.files import open_regular
from .manifest import Manifest

_COMPARED = 100
"""Largest number of files of the same size that a file is compared with.
Uncompressed images may all have the same size."""
_PIECE = 2**16  # bytes


def find_duplicates(manifest: Manifest, indices: Iterable[int], files: list[tuple[str, int]]) -> list[bool | None]:
    """Finds the files that equal an image of a manifest, by path or by content.

    Args:
        manifest: the list of images to compare with.
        indices: the images of `manifest` to compare with.
        files: (path, bytes) of each file to look up.

    Returns: for each file True or False; None if the images cannot be read, or if too many images have the size of the
        file.
    """
    same_size: dict[int, list[int]] = {size: [] for _, size in files}
    for index in indices:
        if (size := manifest.sizes[index]) in same_size:
            same_size[size].append(index)
    return [_is_among([manifest.path(i) for i in same_size[size]], path) for path, size in files]


def _is_among(candidates: list[str], path: str) -> bool | None:
    resolved, name = os.path.realpath(path), os.path.basename(path)
    if path in candidates or resolved in candidates:
        return True
    likely = sorted(candidates, key=lambda other: os.path.basename(other) != name)[:_COMPARED]
    answers = [_same(resolved, other) for other in likely]
    if True in answers:
        return True
    return None if None in answers or len(candidates) > _COMPARED else False


def _same(one: str, other: str) -> bool | None:
    """Compares the bytes of two files; returns None if either cannot be read."""
    try:
        with open_regular(one) as a, open_regular(other) as b:
            while (piece := a.read(_PIECE)) == b.read(_PIECE):
                if not piece:
                    return True
            return False
    except (OSError, ValueError):
        return None
