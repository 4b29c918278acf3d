"""Command `python -m fastmim.bittrace A B`: names the first difference between two bit traces."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .host.command import Parser, refusing
from .host.terminal import shown
from .run.trace import FIELDS, NAME, read


def main(argv: Sequence[str]) -> int:
    """Prints the first difference between two traces; returns 0 if there is none, else 1."""
    parser = Parser("python -m fastmim.bittrace", "Names the first difference between two bit traces.")
    for name in ("a", "b"):
        about = "run folder of a run with --run.trace True, or a trace file"
        parser.add_argument(name, type=Path, metavar=name.upper(), help=about)
    parser.add_argument("--fields", nargs="+", choices=FIELDS, default=FIELDS, help="fields to compare")
    arguments = parser.parse_args(argv)
    difference = diff(_file(arguments.a), _file(arguments.b), arguments.fields)
    print(difference or "no difference")
    return int(difference is not None)


def diff(a: Path, b: Path, fields: Sequence[str] = FIELDS) -> str | None:
    """Names the first difference between two traces, or returns None.

    Args:
        a: a trace file.
        b: another trace file.
        fields: fields to compare besides the step; ("samples", "masks") for runs on another number of processes.
    """
    for left, right in zip_longest(read(a), read(b)):
        if left is None:
            return f"{a} ends before step {right['step']}"
        if right is None:
            return f"{b} ends before step {left['step']}"
        for field in ("step", *fields):
            if left[field] != right[field]:
                differing = f"{_readable(left[field])} and {_readable(right[field])}"
                return f"step {left['step']}: {field} differs: {differing}"
    return None


def _file(place: Path) -> Path:
    """Returns the trace file of a run folder, or the file itself."""
    if not place.is_dir():
        return place
    if not (place / NAME).exists():
        raise ValueError(f"{shown(place)}: expected a run folder with {NAME}, found none: train with --run.trace True")
    return place / NAME


def _readable(value: Any) -> str:
    """Returns a value for people: a hexadecimal number also in decimal."""
    if isinstance(value, str) and value.lstrip("-").startswith("0x"):
        with contextlib.suppress(ValueError, OverflowError):
            return f"{value} ({float.fromhex(value):.9g})"
    return shown(str(value))


if __name__ == "__main__":
    with refusing("python -m fastmim.bittrace"):
        sys.exit(main(sys.argv[1:]))
