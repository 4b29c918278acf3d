"""Reading of JSON from strangers, with limits on memory and errors in plain words.

Standard library only.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from .files import open_regular, read_bytes
from .terminal import shown

MAX_BYTES = 4 * 10**9
"""Size of the largest file that `read_large` reads, in bytes; the largest data sets fit."""

_NO_MARKS = bytes(set(range(256)) - set(b'"[{:'))
_TEXT = re.compile(b'"[^"]*"')
_HEAD = 4096


class JSONError(ValueError):
    """Text that is not JSON; the message names the place."""


def _refuse_constant(name: str) -> None:
    raise JSONError(f"expected JSON, found {name}, which is no number")


def read_json(path: str | os.PathLike, limit: int) -> Any:
    """Returns the value in a JSON file of at most `limit` bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: `path` is not a regular file, is larger than `limit`, or fails `parse_json`. The message names the
            file and the place in the file.
    """
    try:
        return parse_json(read_bytes(path, limit))
    except JSONError as error:
        raise ValueError(f"{shown(path)}: {error}") from None


def parse_json(
    content: bytes,
    change: Callable[[dict[str, Any]], Any] = lambda found: found,
    constant: Callable[[str], Any] = _refuse_constant,
) -> Any:
    """Returns the value in a JSON text.

    Args:
        content: UTF-8, with or without a byte order mark.
        change: replaces each object as soon as the object is parsed.
        constant: returns the value of NaN or an infinity. By default both are refused.

    Raises:
        JSONError: the text is not JSON, or an object has the same key twice.
    """
    try:
        return json.loads(
            content.decode("utf-8-sig"),
            parse_constant=constant,
            object_pairs_hook=lambda pairs: change(_unique(pairs)),
        )
    except UnicodeDecodeError as error:
        raise JSONError(f"expected JSON, found no text at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise JSONError(f"expected JSON, found none at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise JSONError("expected JSON, found more than a hundred values within each other") from None
    except JSONError:
        raise
    except ValueError:
        raise JSONError("expected JSON, found a number of thousands of digits") from None


def read_large(path: str, refusal: str) -> bytes:
    """Returns the content of a file of up to `MAX_BYTES` that begins like a JSON object.

    Args:
        path: path of the file.
        refusal: start of the message if the file does not begin like a JSON object; names the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: `path` is not a regular file, is larger than `MAX_BYTES`, or does not begin like a JSON object.
    """
    with open_regular(path) as file:
        head = file.read(min(_HEAD, os.fstat(file.fileno()).st_size))
    if not head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        raise ValueError(f"{refusal}: it is no JSON object")
    return read_bytes(path, MAX_BYTES)


def parse_large(
    content: bytes,
    lists: int,
    objects: int,
    keys: int,
    texts: int | None = None,
    change: Callable[[dict[str, Any]], Any] = lambda found: found,
) -> dict[str, Any]:
    """Parses a JSON object of limited complexity.

    Lists, objects, keys and texts take much more memory than their characters in the file. So this function counts them
    before parsing.

    Args:
        content: UTF-8.
        lists: most lists that the text may hold.
        objects: most objects.
        keys: most keys of all objects together.
        texts: most texts, keys included; None = no limit.
        change: replaces each object as soon as the object is parsed.

    Raises:
        ValueError: the text is no JSON object, or exceeds a limit. The message does not name the file. NaN and infinity
            pass, so that the check of a field can name the field.
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


def short(value: Any) -> str:
    """Returns a value from a stranger's file as one short line of plain characters, for a message."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    printable = value.bit_length() < 10_000 if isinstance(value, int) else isinstance(value, str | float | None)
    if not printable:  # the text of other objects may be of any length, or hold a memory address
        return f"a value of type {type(value).__name__}"
    text = json.dumps(value[:60] if isinstance(value, str) else value, ensure_ascii=False)
    return shown(text if len(text) <= 64 else f"{text[:60]}...")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise JSONError(f"expected JSON, found the key {shown(key[:40])} twice")
    return found


def _outside_texts(content: bytes) -> bytes:
    """Returns the brackets and colons of JSON that stand outside of texts."""
    # Dropping empty texts changes no later bracket and makes the pattern below faster.
    marks = content.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_MARKS).replace(b'""', b"")
    return _TEXT.sub(b"", marks)
