"""JSON form of a config, as a run folder stores it."""

from __future__ import annotations

import dataclasses
import inspect
from types import ModuleType
from typing import Any

from ..host.command import nearest
from .base import PARTS, is_own, subclasses
from .fields import brief, check_types

_LONGEST = 4096  # most values of a list, or characters of a text such as a path


def to_json(value: Any) -> Any:
    """Returns a config as plain JSON values. The class name of each part stands under "part"."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"part": type(value).__name__} | fields
    return [to_json(v) for v in value] if isinstance(value, tuple) else value


def from_json(value: Any, recipe: ModuleType, name: str = "") -> Any:
    """Builds a config from the JSON values of `to_json`.

    JSON can name the dataclasses that `recipe` exports, and the user's own parts. The user's own parts are loaded
    classes outside fastmim that derive from a class of `PARTS`. No module is imported because a file names a class.

    Args:
        value: the result of `json.loads` for the stored config, or a part of that result.
        recipe: `fastmim.recipe`. Its export list holds the classes that JSON can name.
        name: dotted name of the field that holds the value, for messages.

    Raises:
        ValueError: a part is unknown, has an unknown field or lacks a field, or a field refuses its value.
    """
    try:
        return _from_json(value, recipe, name)
    except RecursionError:
        raise ValueError(f"{name or 'config'}: expected a few values within each other, found hundreds") from None


def _from_json(value: Any, recipe: ModuleType, name: str) -> Any:
    where = f"{name}: " if name else ""
    if isinstance(value, list | str) and len(value) > _LONGEST:
        raise ValueError(f"{where}expected at most {_LONGEST} values or characters, found {len(value)}")
    if isinstance(value, list):
        return tuple(_from_json(v, recipe, name) for v in value)
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{where}expected a number below 2**63")
    if not isinstance(value, dict):
        return value
    fields = dict(value)
    stated = fields.pop("part", None)
    part = _part(stated, recipe)
    if part is None:
        raise ValueError(f"{where}{_unknown(stated, recipe)}")
    own = {f.name: f for f in dataclasses.fields(part)}
    for old, only in getattr(part, "retired", {}).items():
        if old not in own and fields.get(old) == only:
            fields.pop(old, None)
    if unexpected := ", ".join(sorted(set(fields) - set(own))):
        raise ValueError(f"{where}config part {stated} has no field {brief(unexpected)}: written by another version?")
    inner = {k: _from_json(v, recipe, f"{name}.{k}".strip(".")) for k, v in fields.items()}
    needed = [f.name for f in own.values() if f.default is f.default_factory is dataclasses.MISSING]
    if lacking := [field for field in needed if field not in inner]:
        raise ValueError(f"{where}config part {stated} lacks the field {', '.join(lacking)}")
    try:
        built = part(**inner)
        check_types(built, f"{name}." if name else "")
    except (
        TypeError,
        AttributeError,
        ArithmeticError,
        LookupError,
    ) as error:  # from a check that cannot compare the value
        raise ValueError(f"{where}config part {stated} holds a value of another type than its fields have") from error
    return built


def _exports(recipe: ModuleType) -> dict[str, type]:
    """Returns the dataclasses in the export list of `recipe`, by name."""
    found = {name: getattr(recipe, name) for name in recipe.__all__}
    return {name: value for name, value in found.items() if isinstance(value, type) and dataclasses.is_dataclass(value)}


def _part(name: Any, recipe: ModuleType) -> type | None:
    """Returns the class that JSON may call by this name, or None.

    If the user has several classes of this name, the newest counts.
    """
    if not isinstance(name, str):
        return None
    if exported := _exports(recipe).get(name):
        return exported
    loaded = [part for base in PARTS for part in subclasses(base) if part.__name__ == name]
    own = [part for part in loaded if is_own(part) and not inspect.isabstract(part)]
    return own[-1] if own else None


def _unknown(name: Any, recipe: ModuleType) -> str:
    """Returns a message about an unknown class, with the way to make a user's class known."""
    near = nearest(name, _exports(recipe)) if isinstance(name, str) else ""
    return (
        f"config part {brief(name)} is unknown: expected a class of fastmim.recipe{near}, or a class of your own whose "
        "module is imported. For a command, import the module that defines it: "
        'python -c "import MODULE, fastmim.cli; fastmim.cli.main()" COMMAND ...'
    )
