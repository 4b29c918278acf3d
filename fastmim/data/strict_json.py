"""JSON that a stranger wrote: parsed in bounded memory, refused in plain words.

Standard library only.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable
from typing import Any

from ..host.files import open_regular, parse_json, read_bytes

MAX_BYTES = 4 * 10**9
"""Of a file, before anything of it is read: room for the lists of the largest data sets."""

_NO_MARKS = bytes(set(range(256)) - set(b'"[{:'))
_TEXT = re.compile(b'"[^"]*"')
_HEAD = 4096


def read(path: str, refusal: str) -> bytes:
    """Returns the content of a file that may hold a JSON object; another kind of file is refused by its beginning.

    Args:
        refusal: begins the message about another kind of file; names the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: `path` is not a regular file, is larger than `MAX_BYTES`, or begins like no JSON object.
    """
    with open_regular(path) as file:
        head = file.read(min(_HEAD, os.fstat(file.fileno()).st_size))
    if not head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        raise ValueError(f"{refusal}: it is no JSON object")
    return read_bytes(path, MAX_BYTES)


def parse(
    content: bytes,
    lists: int,
    objects: int,
    keys: int,
    texts: int | None = None,
    change: Callable[[dict[str, Any]], Any] = lambda found: found,
) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        content: UTF-8.
        lists, objects, keys, texts: how many there may be. Each takes many times its characters in memory, so they are
            counted before anything is parsed. Keys are texts too; None = any number of texts.
        change: replaces each object as soon as it is parsed.

    Raises:
        ValueError: says why, without the name of the file. NaN and infinity are not refused: whoever checks the fields
            can name the field.
    """
    for mark, limit, name in ((b"[", lists, "lists"), (b"{", objects, "objects"), (b":", keys, "keys")):
        if content.count(mark) > limit and _outside_texts(content).count(mark) > limit:
            raise ValueError(f"expected at most {limit} {name} in such a file, found more")
    if texts is not None and content.count(b'"') > 2 * texts:
        raise ValueError(f"expected at most {texts} texts in such a file, found more")
    data = parse_json(content, change, constant=float)
    if not isinstance(data, dict):
        raise ValueError("it is no object")
    return data


def is_whole(value: Any, low: int, high: int) -> bool:
    """True if a value is a whole number (not true or false) from `low` to `high`."""
    return type(value) is int and low <= value <= high


def _outside_texts(content: bytes) -> bytes:
    """Returns the brackets and colons outside of texts."""
    # Two quotes with nothing between them change nothing for what follows.
    marks = content.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_MARKS).replace(b'""', b"")
    return _TEXT.sub(b"", marks)
