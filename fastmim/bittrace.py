"""The bit trace: one line of hashes per update, and a differ that names the first differing field of two traces.

`python -m fastmim.bittrace A B` compares two files.
"""

# May import torch and the standard library only.

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .command import Parser, refusing

FIELDS = ("loss", "grad_norm", "parameters", "samples", "masks")
"""What a line holds besides its step. samples and masks alone are equal for every number of processes."""


class Trace:
    """Appends to a trace file; a line survives the death of the process as soon as `record` returns.

    Args:
        path: the file, made if missing.
        resume_step: updates already done. Lines of later updates are dropped, as training is about to repeat them.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        kept = [line for line in read(path) if line["step"] < resume_step] if path.exists() else []
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(_line(values) for values in kept))
        os.replace(temporary, path)
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - open as long as the trace is

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
        self._file.write(_line(values | {"loss_decimal": f"{loss:.6g}"}))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


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


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a trace; one cut short at the end, by a kill, is left out.

    Raises:
        ValueError: a line before the last is damaged.
    """
    lines = path.read_text().split("\n")
    values = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is empty or cut short
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError:
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {line[:40]!r}") from None
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
                return f"step {left['step']}: {field} differs: {_readable(left[field])} and {_readable(right[field])}"
    return None


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values) + "\n"


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
    is_float = isinstance(value, str) and value.lstrip("-").startswith("0x")
    return f"{value} ({float.fromhex(value):.9g})" if is_float else str(value)


def main(argv: Sequence[str]) -> int:
    """The command: prints the first difference; 0 if there is none, else 1."""
    parser = Parser("python -m fastmim.bittrace", "Names the first difference between two bit traces.")
    parser.add_argument("traces", nargs=2, type=Path, metavar="TRACE")
    parser.add_argument("--fields", nargs="+", choices=FIELDS, default=FIELDS, help="what to compare")
    arguments = parser.parse_args(argv)
    difference = diff(*arguments.traces, arguments.fields)
    print(difference or "no difference")
    return int(difference is not None)


if __name__ == "__main__":
    with refusing("python -m fastmim.bittrace"):
        sys.exit(main(sys.argv[1:]))
