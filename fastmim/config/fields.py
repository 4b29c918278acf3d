"""Checks of a config's fields by type and bounds, and the words for both in messages."""

from __future__ import annotations

import dataclasses
import operator
import re
import types
import typing
from typing import Any

from ..host.command import misread

_LONGEST = 160
_BOUNDS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}


def check_bounds(value: Any, prefix: str, *names: str, **bounds: float) -> None:
    """Checks that the named fields of a dataclass are within bounds.

    None passes. In a tuple, each number is checked.

    Args:
        value: the dataclass.
        prefix: name of the section with its dot, for messages.
        *names: fields to check.
        **bounds: limits as `at_least`, `above`, `at_most` or `below`.

    Raises:
        ValueError: a number is out of bounds.
    """
    for f in dataclasses.fields(value):
        inner = getattr(value, f.name)
        if f.name not in names or inner is None:
            continue
        numbers = inner if isinstance(inner, tuple) else (inner,)
        if not all(_BOUNDS[word](v, limit) for v in numbers for word, limit in bounds.items()):
            words = " and ".join(f"{word.replace('_', ' ')} {limit}" for word, limit in bounds.items())
            words += " or None" if str(f.type).endswith("| None") else ""
            raise ValueError(f"{prefix}{f.name}: expected {words}, got {brief(inner)}")


def check_types(value: Any, prefix: str = "") -> None:
    """Checks every field of a dataclass, and of the dataclasses inside it, against its annotation.

    An int counts as a float; a bool does not count as an int, nor a list as a tuple.

    Args:
        value: the dataclass.
        prefix: name of the section with its dot, for messages.

    Raises:
        ValueError: a field has another type, a whole number is 2**63 or more, or a text is empty or probably a mistake
            (see `misread`).
    """
    hints = typing.get_type_hints(type(value))
    for f in dataclasses.fields(value):
        inner = getattr(value, f.name)
        if not _fits(inner, hints[f.name]):
            raise ValueError(f"{prefix}{f.name}: expected {expected(str(f.type))}, got {brief(inner)}")
        if _too_large(inner):
            raise ValueError(f"{prefix}{f.name}: expected whole numbers below 2**63, got {brief(inner)}")
        wrong = misread(inner) if isinstance(inner, str) and not choices(str(f.type)) else None
        if wrong or "" in _texts(inner):
            optional = "; write None for none" if str(f.type).endswith("| None") else ""
            raise ValueError(f"{prefix}{f.name}: expected a path or name, got {wrong or 'an empty one'}{optional}")
        if dataclasses.is_dataclass(inner):
            check_types(inner, f"{prefix}{f.name}.")


def _too_large(value: Any) -> bool:
    """True if a value is, or a tuple holds, a whole number that torch and JSON readers cannot hold."""
    if isinstance(value, tuple):
        return any(map(_too_large, value))
    return isinstance(value, int) and abs(value) >= 2**63


def _texts(value: Any) -> list[str]:
    """Returns the texts in a tuple, and in the tuples inside it, without surrounding space."""
    if not isinstance(value, tuple):
        return []
    return [text for item in value for text in ([item.strip()] if isinstance(item, str) else _texts(item))]


def _fits(value: Any, hint: Any) -> bool:
    """True if a value is of an annotated type."""
    args = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Literal:
            return any(value == arg and type(value) is type(arg) for arg in args)
        case types.UnionType | typing.Union:
            return any(_fits(value, arg) for arg in args)
        case builtin if builtin is tuple:
            kinds = args[:1] * len(value) if isinstance(value, tuple) and args[-1] is ... else args
            return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def brief(value: Any) -> str:
    """Returns a value for a message: without memory addresses, and shortened if the text is long."""
    text = re.sub(" at 0x[0-9a-f]+", "", repr(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def choices(kind: str) -> list[str]:
    """Returns the values of a Literal type as they are typed on a command line, or [] for any other type."""
    if not kind.startswith("Literal["):
        return []
    return kind.partition("]")[0].removeprefix("Literal[").replace("'", "").replace('"', "").split(", ")


def expected(kind: str) -> str:
    """Describes a type in words."""
    if values := choices(kind):
        return f"one of {', '.join(values)}"
    return kind
