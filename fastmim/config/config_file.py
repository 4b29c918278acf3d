"""Config files: Python that defines a `config`."""

from __future__ import annotations

import dataclasses
import difflib
import re
import runpy
import traceback
import typing
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ..host.terminal import shown
from .base import PARTS, Config, DerivedFolder, Experiment, is_own, subclasses
from .change import change, no_field
from .fields import check_types

_running: ContextVar[tuple[Path, ...]] = ContextVar("running", default=())
"""Config files that `load` is running, the outermost first."""


def load(path: str | Path) -> Experiment:
    """Runs a config file and returns its `config`.

    While a config file runs, `load` takes a relative path relative to that file; elsewhere, to the current folder.
    A config without its own `run.dir` gets a folder from its own path. So does a config that keeps the `run.dir` of a
    config that it loads. A folder that the config file writes as a string is never replaced.

    Raises:
        ValueError: the file is missing, is not a Python file, does not define `config` as an Experiment, fails while it
            runs, or gives a field a value of another type. The message is one sentence that names the file and, if
            known, the line.
    """
    path, running = Path(path), _running.get()
    if running:
        path = running[-1].parent / path
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"{shown(path)}: expected a config file (Python){_other_config(path)}")
    if path.resolve() in (file.resolve() for file in running):
        raise ValueError(f"{shown(path)}: expected a config file that does not load itself")
    token = _running.set((*running, path))
    try:
        config = runpy.run_path(str(path)).get("config")
    except (Exception, SystemExit) as error:  # a config file is the user's own code, which can raise any error
        raise ValueError(_locate(path, error)) from error
    finally:
        _running.reset(token)
    if not isinstance(config, Experiment):
        others = " or ".join(kind.__name__ for kind in Experiment.__subclasses__() if kind is not Config)
        raise ValueError(
            f"{shown(path)}: expected it to end with `config = Config(...)`{others and f', or {others}'}, "
            f"got {_kind_of(config)}"
        )
    try:
        check_types(config)
        _check_names(config)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error
    folder = _folder_of(path) if isinstance(config.run.dir, DerivedFolder) else config.run.dir
    return change(config, run=dict(dir=DerivedFolder(folder)))  # derived, for a config that loads this config


def _kind_of(config: object) -> str:
    """Describes the `config` of a config file that is no Experiment."""
    if config is None:
        return "none"
    return "a class" if isinstance(config, type) else type(config).__name__


def _folder_of(path: Path) -> str:
    """Returns the run folder of a config file: its path below `configs`, or else its name.

    The folders `pretrain` and `debug` are left out: configs/simmim/pretrain/x.py trains in runs/simmim_x.
    """
    names = path.resolve().with_suffix("").parts
    below = [number for number, name in enumerate(names) if name == "configs"]
    names = names[below[-1] + 1 :] if below else names[-1:]
    return "runs/" + "_".join([*(name for name in names[:-1] if name not in ("pretrain", "debug")), names[-1]])


def _check_names(config: Experiment) -> None:
    """Checks that no class of the user has the name of a class of fastmim.

    Run folders store parts by class name.

    Raises:
        ValueError: a class has such a name.
    """
    ours = {part.__name__ for base in (*PARTS, Experiment) for part in subclasses(base) if not is_own(part)}
    for value in _dataclasses(config):
        if is_own(type(value)) and type(value).__name__ in ours:
            raise ValueError(
                f"expected another name for the class {type(value).__name__}: fastmim has a class of this name, and "
                "run folders name classes"
            )


def _dataclasses(value: Any) -> Iterator[Any]:
    """Yields a dataclass and every dataclass inside it."""
    if dataclasses.is_dataclass(value):
        yield value
        for f in dataclasses.fields(value):
            yield from _dataclasses(getattr(value, f.name))


def _other_config(path: Path) -> str:
    """Returns the end of a message about a missing config file, such as "; did you mean FILE?"."""
    elsewhere = Path(__file__).resolve().parents[2] / path
    if elsewhere.suffix == ".py" and elsewhere.is_file():
        return f"; did you mean {elsewhere}?"
    folder = path if path.is_dir() else path.parent
    near = difflib.get_close_matches(path.name, [p.name for p in folder.glob("*.py") if p.is_file()], n=1, cutoff=0.6)
    if near:
        return f"; did you mean {shown(folder / near[0])}?"
    found = "another file" if path.exists() else "nothing"
    if path.is_dir():
        found = "a folder"
    return f"; found {found} there; configs/README.md lists them"


def _locate(path: Path, error: BaseException) -> str:
    """Describes the error of a config file in one line: file, line and message.

    For an unknown keyword, the message names the nearest field.
    """
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(path)]
    line = lines[-1] if lines else 1  # a file that cannot be decoded never ran
    text = str(error)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line, text = error.lineno, error.msg
    if found := re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text):
        kinds = subclasses(Experiment)
        hints = {hint for kind in kinds for hint in typing.get_type_hints(kind).values()}
        sections = (hint for hint in hints if isinstance(hint, type) and dataclasses.is_dataclass(hint))
        parts = {part.__name__: part for base in (*kinds, *sections, *PARTS) for part in subclasses(base)}
        if found[1] in parts:
            return f"{path}:{line}: {no_field(parts[found[1]], found[2])}"
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return shown(f"{path}:{line}: {kind}{' '.join(text.split())}")
