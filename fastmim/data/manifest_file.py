"""Reading and writing a manifest's JSON file.

A stranger may have written the file, so every field is checked.

Standard library only.
"""

from __future__ import annotations

import json
import os
import re
from typing import IO, Any

from ..host.json_files import is_whole, parse_large, read_large, short
from ..host.terminal import shown
from .scan import MAX_LABEL

_FORMAT = "fastmim-manifest-1"
_NESTED = 16  # most lists and objects; a manifest has four lists and one object
_KEYS = 64  # a manifest has seven
_CHECKSUM = re.compile("[0-9a-f]{16}")
_MAX_SIZE = 2**63


def read(path: str) -> tuple[dict[str, Any], str]:
    """Returns the fields of a manifest, named as in `Manifest`, and the hash that the file states.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a manifest; the message names the field.
    """
    refusal = f"{shown(path)} is not a manifest (expected a JSON object of format {_FORMAT})"
    content = read_large(path, refusal)
    try:
        data = parse_large(content, lists=_NESTED, objects=_NESTED, keys=_KEYS)
        del content
        if (found := data.get("format")) != _FORMAT:
            raise ValueError(f"its format is {short(found)}")
        return _fields(os.path.dirname(os.path.abspath(path)), data)
    except ValueError as error:
        raise ValueError(f"{refusal}: {error}") from None


def write(file: IO[str], columns: dict[str, Any], checksums: list[int] | None) -> None:
    """Writes the JSON file of a manifest."""
    data = {"format": _FORMAT} | columns
    if checksums is not None:
        data["checksums"] = [f"{checksum:016x}" for checksum in checksums]
    # ASCII, because JSON can hold file names that are not valid UTF-8 only as escapes.
    json.dump(data, file)


def _fields(folder: str, data: dict[str, Any]) -> tuple[dict[str, Any], str]:
    root, digest = data.get("root"), data.get("hash")
    if not isinstance(root, str) or "\0" in root or not (root == "." or os.path.isabs(root)):
        raise ValueError(f"root: expected '.' or an absolute path, got {short(root)}")
    if not isinstance(digest, str):
        raise ValueError(f"hash: expected text, got {short(digest)}")
    paths = data.get("paths")
    if not isinstance(paths, list) or not paths:
        raise ValueError(f"paths: expected a list of paths, got {short(paths)}")
    for index, path in enumerate(paths):
        if not _is_path(path):
            raise ValueError(f"paths[{index}]: expected a path inside the folder or an absolute one, got {short(path)}")
    sizes = _numbers(data, "sizes", len(paths), _MAX_SIZE)
    labels = None if data.get("labels") is None else _numbers(data, "labels", len(paths), MAX_LABEL)
    checksums = data.get("checksums")
    if checksums is not None:
        checksums = _list("checksums", checksums, len(paths))
        for index, text in enumerate(checksums):
            if not isinstance(text, str) or not _CHECKSUM.fullmatch(text):
                raise ValueError(f"checksums[{index}]: expected 16 hexadecimal digits, got {short(text)}")
        checksums = [int(text, 16) for text in checksums]
    root = os.path.normpath(os.path.join(folder, root))
    return dict(root=root, paths=paths, sizes=sizes, labels=labels, checksums=checksums), digest


def _is_path(path: Any) -> bool:
    if not isinstance(path, str) or not path or "\0" in path:
        return False
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    # A folder that could not be read has a slash at its end.
    return os.path.isabs(path) or os.path.normpath(path) == path.removesuffix("/") and path.split("/")[0] != ".."


def _numbers(data: dict[str, Any], name: str, count: int, limit: int) -> list[int]:
    values = _list(name, data.get(name), count)
    for index, value in enumerate(values):
        if not is_whole(value, 0, limit - 1):
            raise ValueError(f"{name}[{index}]: expected a whole number from 0 to {limit - 1}, got {short(value)}")
    return values


def _list(name: str, values: Any, count: int) -> list[Any]:
    """Returns `values` after checking that it is a list of `count` values."""
    if not isinstance(values, list) or len(values) != count:
        got = f"{len(values)}" if isinstance(values, list) else short(values)
        raise ValueError(f"{name}: expected a list of {count}, one for each path, got {got}; the file is damaged")
    return values
