"""Checks of config fields: type and bounds, and both in words. May import command only."""

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
    """Compares the named fields, each number of a tuple, with `at_least`, `above`, `at_most`, `below`; None passes.

    Raises:
        ValueError: a number out of bounds.
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
    """Compares every field with its annotation, also those of the parts inside.

    Raises:
        ValueError: a field of another type; an int is a float, a bool is no int, a list is no tuple. Or a whole number
            from 2**63 on, or a text that is empty or probably a mistake (see `misread`).
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
    """True for a whole number, or a tuple with one, that torch and JSON readers cannot hold."""
    if isinstance(value, tuple):
        return any(map(_too_large, value))
    return isinstance(value, int) and abs(value) >= 2**63


def _texts(value: Any) -> list[str]:
    """Returns the texts in a tuple, and in tuples in it, without surrounding space."""
    if not isinstance(value, tuple):
        return []
    return [text for item in value for text in ([item.strip()] if isinstance(item, str) else _texts(item))]


def _fits(value: Any, hint: Any) -> bool:
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
    """Returns a value as a message shows it, without memory addresses; of a long one the beginning."""
    text = re.sub(" at 0x[0-9a-f]+", "", repr(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def choices(kind: str) -> list[str]:
    """Returns the values of a Literal type, as written on a command line; none for any other type."""
    if not kind.startswith("Literal["):
        return []
    return kind.partition("]")[0].removeprefix("Literal[").replace("'", "").replace('"', "").split(", ")


def expected(kind: str) -> str:
    """Returns a type in words."""
    return f"one of {', '.join(choices(kind))}" if choices(kind) else kind
