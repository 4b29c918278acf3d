"""Copies of a config with some fields changed."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


_Dataclass = TypeVar("_Dataclass", bound="DataclassInstance")


def change(base: _Dataclass, **fields: Any) -> _Dataclass:
    """Returns a copy of a config, or of a part of a config, with some fields changed.

    A dict changes fields inside a field, and any other value replaces the field:
    `change(base, train=dict(epochs=1600), loss=MaskedL1())`.

    Raises:
        ValueError: the config does not have a field, or refuses a value.
    """
    known = [f.name for f in dataclasses.fields(base)]
    for name, value in fields.items():
        if name not in known:
            raise ValueError(no_field(type(base), name))
        if isinstance(value, dict):
            fields[name] = change(getattr(base, name), **value)
    return dataclasses.replace(base, **fields)


def no_field(part: type[DataclassInstance], name: str) -> str:
    """Returns a message about an unknown field of a class, with the nearest field."""
    near = difflib.get_close_matches(name, [f.name for f in dataclasses.fields(part)], n=1, cutoff=0.0)
    return f"{part.__name__} has no field {name}" + (f"; nearest: {near[0]}" if near else "")
