"""The JSON file of a manifest, which a stranger may have written: every field is checked before it is used.

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
_NESTED = 16  # lists and objects; four and one are needed
_KEYS = 64  # seven are needed
_CHECKSUM = re.compile("[0-9a-f]{16}")
_MAX_SIZE = 2**63


def read(path: str) -> tuple[dict[str, Any], str]:
    """Returns the fields of a manifest, by their names in `Manifest`, and the hash that the file gives.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a manifest; the message names the field.
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
    """Writes what `read` reads."""
    data = {"format": _FORMAT} | columns
    if checksums is not None:
        data["checksums"] = [f"{checksum:016x}" for checksum in checksums]
    # ASCII, because escapes are the only way JSON can carry file names that are not valid UTF-8.
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
        _check_length("checksums", checksums, len(paths))
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
    values = data.get(name)
    _check_length(name, values, count)
    for index, value in enumerate(values):
        if not is_whole(value, 0, limit - 1):
            raise ValueError(f"{name}[{index}]: expected a whole number from 0 to {limit - 1}, got {short(value)}")
    return values


def _check_length(name: str, values: Any, count: int) -> None:
    if not isinstance(values, list) or len(values) != count:
        got = f"{len(values)}" if isinstance(values, list) else short(values)
        raise ValueError(f"{name}: expected a list of {count}, one for each path, got {got}; the file is damaged")
