"""Measures the peak memory per device of training, or finds the largest batch that fits.

The command trains a few real steps in child processes, for every combination of ZeRO stage, precision, batch and
activation checkpointing. Each row also has the part of the peak above weights, gradients and optimizer state. With
`--limit GiB` the command searches for the largest batch instead, and running out of memory is a valid result.
"""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

from bench import record
from bench.options import add_configs, add_settings, command_parser
from bench.step import trial
from fastmim.config import base as config
from fastmim.host.command import at_least

GIB = 2**30


def state_bytes(trained: int, frozen: int, precision: str, stage: int, ranks: int) -> dict[str, float]:
    """Returns the bytes of weights, gradients and optimizer state on each device.

    Weights are fp32, or bf16 with "bf16-master". Gradients and both moments are fp32. Stages 1 to 3 and bf16 weights
    have fp32 master weights. Stage 1 divides the optimizer state among the ranks, stage 2 also the gradients, and
    stage 3 also the weights.

    Args:
        trained: number of trained parameters.
        frozen: number of other parameters.
        precision: precision of the engine.
        stage: ZeRO stage, 0 to 3.
        ranks: number of processes.
    """
    low = precision == "bf16-master"
    master = 4 if low or stage else 0
    return {
        "weights": (2 if low else 4) * (trained + frozen) / (ranks if stage == 3 else 1),
        "gradients": 4 * trained / (ranks if stage >= 2 else 1),
        "optimizer": (8 + master) * trained / (ranks if stage >= 1 else 1),
    }


def largest(fits: Callable[[int], bool], at_most: int) -> int:
    """Returns the largest batch up to `at_most` that fits, or 0 if no batch fits.

    The batch is doubled while it fits, then bisected to 1/16 of its size.
    """
    low, high = 0, 1
    while high <= at_most and fits(high):
        low, high = high, 2 * high
    high = min(high, at_most + 1)
    while high - low > 1 + low // 16:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class Case:
    """One combination of config, ZeRO stage, precision and checkpointing, with the results of its batches."""

    def __init__(self, path: str, stage: int, precision: str, checkpointing: bool, args: argparse.Namespace):
        self.path, self.stage, self.precision = path, stage, precision
        self.checkpointing, self.args = checkpointing, args
        self.found: dict[int, list[trial.Trial] | None] = {}

    def run(self, batch: int) -> list[trial.Trial] | None:
        """Trains with `batch` images per process; returns a result per process, or None if memory ran out."""
        if batch not in self.found:
            settings = [
                *self.args.set, *([f"data.root={self.args.data}"] if self.args.data else []),
                f"train.zero_stage={self.stage}", f"train.precision={self.precision}",
                f"train.activation_checkpointing={self.checkpointing}",
                f"train.global_batch={batch * self.args.ranks}", f"train.micro_batch={batch}",
            ]  # fmt: skip
            limit = int(self.args.limit * GIB) if self.args.limit else None
            self.found[batch] = trial.launch(self.path, settings, self.args.ranks, self.args.steps, 1, limit)
        return self.found[batch]

    def row(self, batch: int) -> dict:
        """Returns the figures at one batch."""
        trials = self.run(batch)
        config = record.relative(Path(self.path).resolve())
        checkpointing = ", activation checkpointing" if self.checkpointing else ""
        precision = trials[0].precision if trials else self.precision
        row = {
            "case": f"{config}, ZeRO {self.stage}, {precision}{checkpointing}, {self.args.ranks} x batch {batch}",
            "config": config, "stage": self.stage, "precision": precision, "checkpointing": self.checkpointing,
            "ranks": self.args.ranks, "batch": batch, "out of memory": trials is None,
        }  # fmt: skip
        if self.args.limit:
            row["limit GiB"] = self.args.limit
        if trials is None:
            return row | {"device": next((t[0].device for t in self.found.values() if t), "cpu")}
        peak = max(trial.peak for trial in trials) / GIB
        states = state_bytes(trials[0].trained, trials[0].frozen, precision, self.stage, self.args.ranks)
        states = {f"{name} GiB": size / GIB for name, size in states.items()}
        return (
            row
            | {"peak GiB": peak, **states, "above them GiB": peak - sum(states.values())}
            | {"device": trials[0].device}
        )


def text(row: dict) -> str:
    """Returns a row as one readable line."""
    if row["out of memory"]:
        return f"{row['case']}: out of memory" + (f" of {row['limit GiB']:g} GiB" if "limit GiB" in row else "")
    where = "CPU, resident beyond start-up" if row["device"] == "cpu" else "GPU, allocated"
    states = ", ".join(f"{name} {row[f'{name} GiB']:.3f}" for name in ("weights", "gradients", "optimizer"))
    found = f"; largest batch that fits in {row['limit GiB']:g} GiB" if "largest batch" in row else ""
    return (
        f"{row['case']}: peak {row['peak GiB']:.3f} GiB per process ({where}), {row['above them GiB']:.3f} above "
        f"{states}{found}"
    )


def rows(case: Case) -> Iterator[dict]:
    """Yields a row for each batch, or with a limit one row for the largest batch that fits."""
    if not case.args.limit:
        yield from map(case.row, case.args.batches)
        return
    batch = largest(lambda batch: case.run(batch) is not None, case.args.max_batch)
    yield case.row(batch) | {"largest batch": batch} if batch else case.row(1)


def numbers(text: str) -> list[int]:
    """Returns whole numbers that stand between commas."""
    return [at_least(0)(word) for word in text.split(",")]


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench memory`."""
    parser = command_parser("memory", __doc__)
    add_configs(parser)
    parser.add_argument("--data", help="folder of images (default: the config's)")
    parser.add_argument("--ranks", type=at_least(1), default=1, help="processes (default 1)")
    parser.add_argument("--stages", type=numbers, default=[0], metavar="0,1,2,3", help="ZeRO stages (default 0)")
    parser.add_argument("--precisions", default="auto", metavar="fp32,autocast,...", help="default auto")
    parser.add_argument(
        "--batches", type=numbers, default=[8], metavar="8,16,...", help="images per process (default 8)"
    )
    parser.add_argument("--checkpointing", choices=("off", "on", "both"), default="off", help="default off")
    parser.add_argument("--limit", type=float, help="GiB per process: look for the largest batch that fits in it")
    parser.add_argument("--max-batch", type=at_least(1), default=4096, help="upper end of that search (default 4096)")
    parser.add_argument("--steps", type=at_least(1), default=2, help="steps after 1 of warm-up (default 2)")
    add_settings(parser)
    parser.add_argument("--record", action=record.Record)
    args = parser.parse_args(argv)
    for name, values, known in (
        ("--stages", args.stages, (0, 1, 2, 3)),
        ("--precisions", args.precisions.split(","), typing.get_args(typing.get_type_hints(config.Train)["precision"])),
    ):
        if unknown := [value for value in values if value not in known]:
            parser.error(f"{name}: expected some of {', '.join(map(str, known))}, got {unknown[0]}")
    if not all(args.batches):
        parser.error("--batches: expected at least 1, got 0")
    if args.data and not Path(args.data).exists():
        parser.error(f"--data: expected a folder of images, found nothing at {args.data}")
    checkpointing = {"off": (False,), "on": (True,), "both": (False, True)}[args.checkpointing]
    try:
        for path in args.configs:
            trial.load(path, args.set)
    except ValueError as error:
        parser.error(str(error))
    failed = False
    for combination in product(args.configs, args.stages, args.precisions.split(","), checkpointing):
        try:
            for row in rows(Case(*combination, args)):
                print(text(row), flush=True)
                if args.record:
                    record.record(row, "memory")
        except ValueError as error:  # other combinations may still run
            print(error, flush=True)
            failed = True
    raise SystemExit(failed)
