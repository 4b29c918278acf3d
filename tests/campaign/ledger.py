"""Frame of every campaign: command line, one thread, and rows of committed sources only."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import torch

from bench import record
from bench.record import ROOT


class Ledger:
    """Writer of a campaign's rows to bench/results, unless `--allow-dirty` is given.

    Attributes:
        arguments: the parsed command line.
        origin: provenance at the start; a row from other sources is refused.
    """

    def __init__(self, parser: argparse.ArgumentParser, bench: str):
        """Reads the command line, and ends the process if the tree has uncommitted changes.

        Args:
            parser: may define `--device`; without this option the device is the CPU.
            bench: theme of the rows, as for `bench.record`.
        """
        words = "try it on uncommitted changes; records nothing"
        parser.add_argument("--allow-dirty", action="store_true", help=words)
        self.arguments, self._bench = parser.parse_args(), bench
        self._device = getattr(self.arguments, "device", "cpu")
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)  # what the provenance is to say of the campaign's processes
        self.origin = record.provenance(self._device)
        if self.origin["dirty"] and not self.arguments.allow_dirty:
            parser.error("the tree has uncommitted changes: commit them, or try the campaign with --allow-dirty")

    def record(self, row: dict[str, Any]) -> None:
        """Records a row, unless `--allow-dirty` is given.

        Raises:
            RuntimeError: the tree changed since the campaign began.
        """
        if self.arguments.allow_dirty:
            return
        now = record.provenance(self._device)
        if any(now[name] != self.origin[name] for name in ("commit", "dirty")):
            raise RuntimeError("the tree changed during the campaign: this row is not recorded")
        record.record(row | {"device": self._device}, self._bench)

    def run(self, attempt: Callable[..., dict], jobs: Iterable[tuple], line: str) -> int:
        """Runs jobs, one per core at a time, and records the row of each; returns the number of failed jobs.

        Args:
            attempt: maps a job's values to its row, or raises.
            jobs: values of each job.
            line: format of the printed line, with names of the row's values.
        """
        failed = 0
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for future in as_completed([pool.submit(attempt, *job) for job in jobs]):
                if (error := future.exception()) is not None:
                    failed += 1
                    print(f"{type(error).__name__}: {error}", flush=True)
                    continue
                print(line.format(**future.result()), flush=True)
                self.record(future.result())
        return failed


def digest(names: Iterable[str]) -> str:
    """Returns the SHA-256 of names and contents of files; a folder stands for the modules directly in it."""
    paths = {
        path for name in names for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).glob("*.py"))
    }
    files = {path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
