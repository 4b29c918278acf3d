"""The bit trace: one line of hashes per update, and a differ that names the first differing field of two traces.

`python -m fastmim.bittrace A B` compares two files or run folders.
"""

# May import torch, command, files, records and terminal.

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .command import Parser, refusing
from .files import open_regular
from .records import LONGEST, Records, Row, is_count, parse
from .terminal import shown

NAME = "trace.jsonl"
"""A trace's name in a run folder."""
FIELDS = ("loss", "grad_norm", "parameters", "samples", "masks")
"""Fields of a line besides its step. Only samples and masks are equal for every number of processes."""


class Trace:
    """Appends to a trace file; a line survives the death of the process as soon as `record` returns.

    Args:
        path: the file, made if missing; a damaged one is repaired (`Records`).
        resume_step: updates already done. Lines of later updates are dropped, as training is about to repeat them.
        say: prints a warning.
    """

    def __init__(self, path: Path, resume_step: int, say: Callable[[str], None] = print) -> None:
        self._records = Records(path, _is_sound, lambda row: row["step"] < resume_step, say)

    def record(self, step: int, loss: float, grad_norm: float, parameters: int, samples: int, masks: int) -> None:
        """Writes the line of one update.

        Args:
            step: updates done before this one.
            loss, grad_norm: written as hexadecimal, so every bit counts; the loss also in decimal, for people.
            parameters: from `parameters_hash`, after the update.
            samples, masks: from `sample_hashes` and `mask_hashes`, summed over micro-batches and ranks.
        """
        hashes = {"parameters": parameters, "samples": samples, "masks": masks}
        values = {"step": step, "loss": float(loss).hex(), "grad_norm": float(grad_norm).hex()}
        values |= {name: f"{value & 0xFFFFFFFFFFFFFFFF:016x}" for name, value in hashes.items()}
        self._records.append(values | {"loss_decimal": f"{loss:.6g}"})

    def close(self) -> None:
        """Closes the file."""
        self._records.close()


def parameters_hash(tensors: Iterable[tuple[str, Tensor]]) -> int:
    """Hash of named tensors' names, dtypes, shapes and bits, in name order; a signed 64-bit integer.

    Ranks that hold shards add theirs up with an int64 all-reduce (wrapping around), as for the other hashes.
    """
    digest = blake2b(digest_size=8)
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return int.from_bytes(digest.digest(), "little", signed=True)


def sample_hashes(ids: Tensor) -> int:
    """Sum modulo 2**64 of one hash per sample, so neither order nor layout counts; a signed 64-bit integer.

    Args:
        ids: (B,) int64 sample ids.
    """
    return _sum(bytes(row) for row in _rows(ids))


def mask_hashes(ids: Tensor, mask: Tensor) -> int:
    """As `sample_hashes`, over each sample's id together with its mask.

    Args:
        ids: (B,) int64 sample ids.
        mask: (B, L) bool, True = hidden.
    """
    return _sum(bytes(row) + bytes(hidden) for row, hidden in zip(_rows(ids), _rows(mask), strict=True))


def read(path: Path) -> list[Row]:
    """Returns the lines of a trace; one cut short at the end, by a kill, is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no regular file, or a line before the last is damaged.
    """
    values = []
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST), b""), start=1):
            row = parse(line, _is_sound)
            if row is None and (line.endswith(b"\n") or len(line) == LONGEST):
                text = shown(line[:40].strip())
                raise ValueError(f"{shown(path)}, line {number}: expected the trace of an update, found {text}")
            if row is not None and line.endswith(b"\n"):
                values.append(row)
    return values


def diff(a: Path, b: Path, fields: Sequence[str] = FIELDS) -> str | None:
    """Names the first difference between two traces, or returns None.

    Args:
        a, b: trace files.
        fields: what to compare besides the step; ("samples", "masks") for runs on another number of processes.
    """
    for left, right in zip_longest(read(a), read(b)):
        if left is None or right is None:
            short, other = (a, right) if left is None else (b, left)
            return f"{short} ends before step {other['step']}"
        for field in ("step", *fields):
            if left[field] != right[field]:
                differing = f"{_readable(left[field])} and {_readable(right[field])}"
                return f"step {left['step']}: {field} differs: {differing}"
    return None


def _is_sound(row: Row) -> bool:
    return is_count(row.get("step")) and all(isinstance(row.get(field), str) for field in FIELDS)


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _rows(tensor: Tensor) -> Iterable[memoryview]:
    data, rows = _bytes(tensor), len(tensor)
    width = len(data) // max(rows, 1)
    return (data[row * width : (row + 1) * width] for row in range(rows))


def _sum(rows: Iterable[bytes]) -> int:
    total = sum(int.from_bytes(blake2b(row, digest_size=8).digest(), "little") for row in rows)
    return int.from_bytes((total % 2**64).to_bytes(8, "little"), "little", signed=True)


def _readable(value: Any) -> str:
    if isinstance(value, str) and value.lstrip("-").startswith("0x"):
        with contextlib.suppress(ValueError, OverflowError):
            return f"{value} ({float.fromhex(value):.9g})"
    return shown(str(value))


def _file(place: Path) -> Path:
    """Returns the trace file of a run folder, or the file that was named."""
    if not place.is_dir():
        return place
    if not (place / NAME).exists():
        raise ValueError(f"{shown(place)}: expected a run folder with {NAME}, found none: train with --run.trace True")
    return place / NAME


def main(argv: Sequence[str]) -> int:
    """The command: prints the first difference; 0 if there is none, else 1."""
    parser = Parser("python -m fastmim.bittrace", "Names the first difference between two bit traces.")
    for name in ("a", "b"):
        about = "run folder of a run with --run.trace True, or a trace file"
        parser.add_argument(name, type=Path, metavar=name.upper(), help=about)
    parser.add_argument("--fields", nargs="+", choices=FIELDS, default=FIELDS, help="what to compare")
    arguments = parser.parse_args(argv)
    difference = diff(_file(arguments.a), _file(arguments.b), arguments.fields)
    print(difference or "no difference")
    return int(difference is not None)


if __name__ == "__main__":
    with refusing("python -m fastmim.bittrace"):
        sys.exit(main(sys.argv[1:]))
