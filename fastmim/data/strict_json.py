"""JSON that a stranger wrote: parsed in bounded memory, refused in plain words.

Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..files import parse_json
from ..terminal import shown

_NO_MARKS = bytes(set(range(256)) - set(b'"[{'))
_EXACT = 64


def parse(
    content: bytes, lists: int, objects: int, change: Callable[[dict[str, Any]], Any] = lambda found: found
) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        content: UTF-8.
        lists, objects: how many there may be. Each takes many times its two characters in memory, so they are counted
            before anything is parsed; numbers above 60 are counted only roughly.
        change: replaces each object as soon as it is parsed.

    Raises:
        ValueError: says why, without the name of the file. NaN and infinity are not refused: whoever checks the fields
            can name the field.
    """
    for mark, limit, name in ((b"[", lists, "lists"), (b"{", objects, "objects")):
        if _count(content, mark, limit) > limit:
            raise ValueError(f"expected at most {limit} {name} in such a file, found more")
    data = parse_json(content, change, constant=float)
    if not isinstance(data, dict):
        raise ValueError("it is no object")
    return data


def short(value: Any) -> str:
    """Returns a value of a foreign file for a message: one line of plain characters, not too long."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = json.dumps(value[:60] if isinstance(value, str) else value, default=repr, ensure_ascii=False)
    return shown(text if len(text) <= 64 else f"{text[:60]}...")


def is_whole(value: Any, low: int, high: int) -> bool:
    """True if a value is a whole number (not true or false) from `low` to `high`."""
    return type(value) is int and low <= value <= high


def _count(content: bytes, mark: bytes, limit: int) -> int:
    """Counts a mark outside of strings; exactly where the limit is small, else those inside may count."""
    count = content.count(mark)
    if count <= limit or limit > _EXACT:
        return count
    # Two quotes with nothing between them change nothing for what follows.
    marks = content.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_MARKS).replace(b'""', b"")
    return sum(piece.count(mark) for piece in marks.split(b'"', 4 * _EXACT)[::2])
