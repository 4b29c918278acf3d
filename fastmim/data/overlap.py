"""Files that are in two lists of images, by place or by content. May import L0 and this folder's manifest."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..host.files import open_regular
from .manifest import Manifest

_COMPARED = 100
"""Files of the same size that one file is compared with; uncompressed images all have the same size."""
_PIECE = 2**16  # bytes


def also_in(manifest: Manifest, indices: Iterable[int], files: list[tuple[str, int]]) -> list[bool | None]:
    """Tells which files are, or have the content of, an image at one of these indices of the manifest.

    Args:
        files: (path, bytes) of each.
    Returns: True, False, or None where the images cannot be read or too many have the file's size.
    """
    same_size: dict[int, list[int]] = {size: [] for _, size in files}
    for index in indices:
        if (size := manifest.sizes[index]) in same_size:
            same_size[size].append(index)
    return [_is_among([manifest.path(i) for i in same_size[size]], path) for path, size in files]


def _is_among(candidates: list[str], path: str) -> bool | None:
    here, name = os.path.realpath(path), os.path.basename(path)
    if path in candidates or here in candidates:
        return True
    likely = sorted(candidates, key=lambda other: os.path.basename(other) != name)[:_COMPARED]
    answers = [_same(here, other) for other in likely]
    if True in answers:
        return True
    return None if None in answers or len(candidates) > _COMPARED else False


def _same(one: str, other: str) -> bool | None:
    """Compares the bytes of two files; None = one of them cannot be read."""
    try:
        with open_regular(one) as a, open_regular(other) as b:
            while (piece := a.read(_PIECE)) == b.read(_PIECE):
                if not piece:
                    return True
            return False
    except (OSError, ValueError):
        return None
