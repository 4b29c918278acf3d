"""Parsing of `--section.field VALUE` arguments."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import traceback
import typing
from typing import Any

from ..host.command import check_words, nearest
from ..host.terminal import shown
from .base import Experiment
from .fields import check_types, choices, expected
from .suggestions import CHOICES, suggestion, typed


def override(config: Experiment, args: list[str], prog: str) -> Experiment:
    """Returns the config with the values of `--section.field VALUE` arguments.

    tyro parses the arguments by the types of the dataclasses.

    Args:
        config: the config before the arguments.
        args: the command line after CONFIG.
        prog: name of the program in the help text.

    Raises:
        SystemExit: 0 after `--help`.
        ValueError: an unknown setting or a bad value. The message names the setting, the expected value, and the
            nearest spelling.
    """
    if {"-h", "--help"} & set(args):
        return _parse(config, args, prog)
    known = {name: (kind, value) for name, kind, value in leaf_fields(config)}
    check_words(args)
    for arg in args:
        if arg.startswith("--") and _name(arg) not in known:
            raise ValueError(f"{shown(arg.partition('=')[0])}: {suggestion(_name(arg), known)}")
        if not arg.startswith("--") and (name := _name(f"--{arg.lstrip('-')}")) in known:
            raise ValueError(f"{shown(arg)}: expected --section.field VALUE; write --{name} VALUE")
    starts = [i for i, arg in enumerate(args) if arg.startswith("--")]
    if args and starts[:1] != [0] and args[0].endswith(".py"):
        raise ValueError(f"{shown(args[0])}: expected one config, got a second: run a separate command for each config")
    if args and starts[:1] != [0]:
        raise ValueError(f"{shown(args[0])}: expected --section.field VALUE")
    parsed = _try(config, args, prog)
    if not isinstance(parsed, SystemExit):
        check_types(parsed)
        return parsed
    # Settings that need each other may each be refused alone. So the refusal of all settings together decides.
    refusal = _refusal(parsed)
    settings = [args[start:stop] for start, stop in zip(starts, [*starts[1:], len(args)], strict=True)]
    names = [_name(setting[0]) for setting in settings]
    if refusal and any(name in refusal for name in names):
        raise ValueError(refusal)
    for name, setting in zip(names, settings, strict=True):
        alone = _try(config, setting, prog)
        if not isinstance(alone, SystemExit) or _refusal(alone) != refusal:
            continue
        key, equals, first = setting[0].partition("=")
        if refusal:
            raise ValueError(f"{key}: {refusal}")
        kind, value = known[name]
        got = shown(" ".join([first, *setting[1:]] if equals else setting[1:])) or "nothing"
        hint = nearest(CHOICES.get(got, got), choices(kind))
        raise ValueError(f"{key}: expected {_words(kind)} (currently {typed(value)}), got {got}{hint}")
    raise ValueError(f"{' '.join(args)}: these settings do not fit each other; {refusal}")


def _words(kind: str) -> str:
    """Describes in words the values that a type takes on a command line."""
    if choices(kind):
        return expected(kind)
    plain, _, optional = kind.partition(" | ")
    if plain.startswith("tuple["):
        text = _several(plain.removeprefix("tuple[").removesuffix("]").split(", "))
    else:
        text = {
            "int": "a whole number",
            "float": "a number",
            "str": "one text, in quotes if it has spaces",
            "bool": "True or False",
        }.get(plain, f"a {plain}")
    return f"{text}{' or None' if optional else ''}"


def _several(kinds: list[str]) -> str:
    """Describes in words the values of a tuple of these types, of which the last may be "..."."""
    one = {"int": "whole numbers", "float": "numbers", "str": "texts"}.get(kinds[0])
    if one is None:
        return "pairs of a regular expression and a number"
    count = "" if kinds[-1] == "..." else f"{len(kinds)} "
    return f"{count}{one}, with spaces between them"


def settings_of(args: list[str]) -> dict[str, str]:
    """Returns the settings among `--section.field VALUE` arguments: {name: the words of its value}."""
    found: dict[str, list[str]] = {}
    words: list[str] = []  # of the latest setting
    for arg in args:
        if arg.startswith("--"):
            words = found[_name(arg)] = arg.split("=", 1)[1:]
        else:
            words.append(arg)
    return {name: " ".join(words) for name, words in found.items()}


def _name(arg: str) -> str:
    """Returns the name of the setting in `--section.a-field=VALUE`."""
    return arg.split("=")[0][2:].replace("-", "_")


def _parse(config: Experiment, args: list[str], prog: str) -> Experiment:
    import tyro  # imported here, because the import takes half a second, which resume and export do not need

    kind, plain = type(config), (tyro.conf.FlagConversionOff,)
    return tyro.cli(kind, default=config, args=args, prog=prog, description=kind.__doc__, config=plain)


def _try(config: Experiment, args: list[str], prog: str) -> Experiment | SystemExit:
    """Returns the config with these arguments, or tyro's SystemExit without its boxed message."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return _parse(config, args, prog)
    except SystemExit as error:
        return error


def _refusal(error: BaseException | None) -> str | None:
    """Returns the message of the `__post_init__` whose refusal caused an error, or None."""
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, ValueError) and any(frame.name == "__post_init__" for frame in frames):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def leaf_fields(value: Any, prefix: str = "") -> typing.Iterator[tuple[str, str, Any]]:
    """Yields (dotted name, type, value) of every leaf field."""
    for f in dataclasses.fields(value):
        inner = getattr(value, f.name)
        if dataclasses.is_dataclass(inner):
            yield from leaf_fields(inner, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, str(f.type), inner
