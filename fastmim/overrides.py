"""`--section.field VALUE` arguments applied to a config. May import config and fields only."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import traceback
import typing
from typing import Any

from .config import Experiment
from .fields import choices, expected


def override(config: Experiment, args: list[str], prog: str) -> Experiment:
    """Applies `--section.field VALUE` arguments; types, help and parsing come from the dataclasses (tyro).

    Raises:
        SystemExit: 0 after `--help`.
        ValueError: an unknown key or a bad value: one sentence that names it, what was expected, the nearest spelling.
    """
    if {"-h", "--help"} & set(args):
        return _parse(config, args, prog)
    known = {name: (kind, value) for name, kind, value in _fields(config)}
    for arg in args:
        key = _name(arg)
        if arg.startswith("--") and key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"--{key}: no such setting; nearest: --{near} (currently {known[near][1]})")
    starts = [i for i, arg in enumerate(args) if arg.startswith("--")]
    if args and starts[:1] != [0]:
        raise ValueError(f"{args[0]!r}: expected --section.field VALUE")
    parsed = _try(config, args, prog)
    if not isinstance(parsed, SystemExit):
        return parsed
    # Settings that need each other are refused one by one: what counts is why all of them together were.
    refusal = _refusal(parsed)
    settings = [args[start:stop] for start, stop in zip(starts, [*starts[1:], len(args)], strict=True)]
    names = [_name(setting[0]) for setting in settings]
    if refusal and any(name in refusal for name in names):
        raise ValueError(refusal)
    for name, setting in zip(names, settings, strict=True):
        alone = _try(config, setting, prog)
        if not isinstance(alone, SystemExit) or _refusal(alone) != refusal:
            continue
        key, *values = " ".join(setting).replace("=", " ", 1).split(" ")
        if refusal:
            raise ValueError(f"{key}: {refusal}")
        kind, value = known[name]
        got = " ".join(values) or "nothing"
        near = difflib.get_close_matches(got, choices(kind), n=1, cutoff=0.3)
        hint = f"; nearest: {near[0]}" if near else ""
        raise ValueError(f"{key}: expected {expected(kind)} (currently {value}), got {got}{hint}")
    raise ValueError(f"{' '.join(args)}: these settings do not fit each other; {refusal}")


def given(args: list[str]) -> dict[str, str]:
    """Returns the words of each setting among `--section.field VALUE` arguments, by name."""
    found: dict[str, list[str]] = {}
    for arg in args:
        if arg.startswith("--"):
            words = found.setdefault(_name(arg), [])
            words[:] = arg.split("=", 1)[1:]
        elif found:
            words.append(arg)
    return {name: " ".join(words) for name, words in found.items()}


def _name(arg: str) -> str:
    """The setting that `--section.a-field=VALUE` is of."""
    return arg.split("=")[0][2:].replace("-", "_")


def _parse(config: Experiment, args: list[str], prog: str) -> Experiment:
    import tyro  # half a second that resume and export need not pay

    kind, plain = type(config), (tyro.conf.FlagConversionOff,)
    return tyro.cli(kind, default=config, args=args, prog=prog, description=kind.__doc__, config=plain)


def _try(config: Experiment, args: list[str], prog: str) -> Experiment | SystemExit:
    """The config with these arguments, or what tyro raises; its boxed message is dropped."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return _parse(config, args, prog)
    except SystemExit as error:
        return error


def _refusal(error: BaseException | None) -> str | None:
    """What a part said when it refused its own values (`__post_init__`), if that is the cause."""
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, ValueError) and any(frame.name == "__post_init__" for frame in frames):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def _fields(value: Any, prefix: str = "") -> typing.Iterator[tuple[str, str, Any]]:
    """(dotted name, type, value) of every leaf field."""
    for f in dataclasses.fields(value):
        inner = getattr(value, f.name)
        if dataclasses.is_dataclass(inner):
            yield from _fields(inner, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, str(f.type), inner
