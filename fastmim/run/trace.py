"""The bit trace of a run: one line of hashes per update.

`python -m fastmim.bittrace A B` compares two traces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..host.files import open_regular
from ..host.records import LONGEST, Records, Row, is_count, parse
from ..host.terminal import shown

NAME = "trace.jsonl"
"""Name of the trace in a run folder."""
FIELDS = ("loss", "grad_norm", "parameters", "samples", "masks")
"""Fields of a line besides its step.
Only samples and masks are the same for every number of processes."""


class Fingerprint(NamedTuple):
    """The record of one update in a bit trace.

    Attributes:
        step: updates done before this one.
        loss: mean loss over all processes.
        grad_norm: global gradient norm before clipping.
        parameters: hash of all parameters after the update, from `parameters_hash`.
        samples: hash of the samples, from `sample_hashes`, summed over micro-batches and ranks.
        masks: hash of samples and masks, from `mask_hashes`, summed over micro-batches and ranks.
    """

    step: int
    loss: float
    grad_norm: float
    parameters: int
    samples: int
    masks: int


class Trace:
    """A trace file that a run appends to.

    After `record` returns, the line survives a kill of the process.

    Args:
        path: path of the file. A missing file is made; a damaged one is repaired (see `Records`).
        resume_step: number of updates already done. Lines of later updates are dropped, because training repeats them.
        say: prints a warning.
    """

    def __init__(self, path: Path, resume_step: int, say: Callable[[str], None] = print) -> None:
        self._records = Records(path, _is_sound, lambda row: row["step"] < resume_step, say)

    def record(self, update: Fingerprint) -> None:
        """Writes the line of one update. Loss and norm are hexadecimal, so that no bit is lost."""
        hashes = {name: getattr(update, name) for name in ("parameters", "samples", "masks")}
        values = {"step": update.step, "loss": float(update.loss).hex(), "grad_norm": float(update.grad_norm).hex()}
        values |= {name: f"{value & 0xFFFFFFFFFFFFFFFF:016x}" for name, value in hashes.items()}
        self._records.append(values | {"loss_decimal": f"{update.loss:.6g}"})

    def close(self) -> None:
        """Closes the file."""
        self._records.close()


def parameters_hash(tensors: Iterable[tuple[str, Tensor]]) -> int:
    """Hashes names, dtypes, shapes and bits of tensors, in the order of their names.

    Ranks that hold shards sum their hashes with an int64 all-reduce, which wraps around.

    Returns:
        A signed 64-bit integer.
    """
    digest = blake2b(digest_size=8)
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return int.from_bytes(digest.digest(), "little", signed=True)


def sample_hashes(ids: Tensor) -> int:
    """Sums one hash per sample modulo 2**64.

    So neither the order of the samples nor their split over processes matters.

    Args:
        ids: (B,) int64 sample ids.

    Returns:
        A signed 64-bit integer.
    """
    return _sum(bytes(row) for row in _rows(ids))


def mask_hashes(ids: Tensor, mask: Tensor) -> int:
    """Sums one hash per sample, of its id and mask, as `sample_hashes` does.

    Args:
        ids: (B,) int64 sample ids.
        mask: (B, L) bool, True = hidden.
    """
    return _sum(bytes(row) + bytes(hidden) for row, hidden in zip(_rows(ids), _rows(mask), strict=True))


def read(path: Path) -> list[Row]:
    """Returns the lines of a trace; a last line that a kill cut short is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is no regular file, or a line before the last is damaged.
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


def _is_sound(row: Row) -> bool:
    return is_count(row.get("step")) and all(isinstance(row.get(field), str) for field in FIELDS)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _rows(tensor: Tensor) -> Iterable[memoryview]:
    data, rows = _bytes(tensor), len(tensor)
    width = len(data) // max(rows, 1)
    return (data[row * width : (row + 1) * width] for row in range(rows))


def _sum(rows: Iterable[bytes]) -> int:
    total = sum(int.from_bytes(blake2b(row, digest_size=8).digest(), "little") for row in rows)
    return int.from_bytes((total % 2**64).to_bytes(8, "little"), "little", signed=True)
