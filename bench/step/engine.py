"""Times and profiles fastmim's own training step, on random images that are already on the device.

The command times `Engine.train_step`, and separately the first step, which compiles and tunes. It counts the kernels of
one profiled step, measures the share of idle time of the device, and prints the 20 longest kernels. A copy and a matrix
product, timed in the same process, show the machine's limits.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import fastmim_kernels
from bench import record, timing
from bench.options import add_configs, add_settings, command_parser
from bench.step import compare, flops, trial
from fastmim.config import base as config
from fastmim.engine.engine import Engine
from fastmim.engine.process import Process, init_distributed
from fastmim.host.command import at_least
from fastmim.model.build import build

PRECISIONS = ("auto", "autocast", "bf16-master", "fp32", "autocast-fp16")
LEARNING_RATE = 1e-4
WARMUP = 3


def busy(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns the total time that the spans cover, and the time from the first start to the last end.

    Args:
        spans: (start, end) of each.
    """
    covered, reached = 0.0, spans[0][0]
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered, reached - min(start for start, _ in spans)


def measure(cfg: config.Config, process: Process, steps: int) -> tuple[dict, str]:
    """Returns the figures of the step, and the table of the longest kernels."""
    device = process.device
    engine = Engine(build(cfg), cfg, process)
    with torch.device(device):
        batches = compare.make_batches(cfg, engine.micro_batch, 2, with_published=False)

    def step(number: int):
        batch = batches[number % len(batches)]
        return engine.train_step(number, LEARNING_RATE, [(batch.images, batch.ids)] * engine.accumulation)

    start = time.perf_counter()
    result = step(0)
    trial.synchronize(device)
    first = time.perf_counter() - start
    marks = []
    total = 1 + WARMUP + steps
    for number in range(1, total):
        if number > WARMUP:
            marks.append(trial.mark(device))
        result = step(number)
    marks.append(trial.mark(device))
    trial.synchronize(device)
    seconds = [trial.between(*pair) for pair in zip(marks, marks[1:], strict=False)]
    kind = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiled:
        step(total)
        trial.synchronize(device)
    spans = [
        (event.start_ns(), event.start_ns() + event.duration_ns())
        for event in timing.events(profiled)
        if str(event.device_type()).endswith(device.type.upper()) and event.duration_ns()
    ]
    covered, whole = busy(spans)
    median, images = statistics.median(seconds), engine.micro_batch * engine.accumulation
    row = {
        "precision": engine.precision,
        "batch": images,
        "s/step": median,
        "images/s": images / median,
        "first step s": first,
        "loss": result.loss.item(),
        "skipped": bool(result.skipped),
        "launches" if device.type == "cuda" else "operators": len(spans),
        "idle": 1 - covered / whole,
    }
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return row, profiled.key_averages().table(sort_by=key, row_limit=20, max_name_column_width=60)


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench step`."""
    parser = command_parser("step", __doc__)
    add_configs(parser)
    parser.add_argument("--batch", type=at_least(1), default=8, help="images per step (default 8)")
    parser.add_argument("--steps", type=at_least(1), default=10, help="timed steps (default 10)")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["auto"], help="one after the other")
    add_settings(parser)
    parser.add_argument("--record", action=record.Record)
    args = parser.parse_args(argv)
    settings = [*args.set, f"train.micro_batch={args.batch}"]
    try:
        configs = [(path, trial.with_batch(trial.load(path, settings), args.batch)) for path in args.configs]
    except ValueError as error:
        parser.error(str(error))
    process = init_distributed(configs[0][1].train.device)
    device = process.device
    fastmim_kernels.require({"cuda": "triton", "cpu": "cpp"}[device.type])
    copy = timing.copy_rate(device)
    print(f"copy {copy / 1e12:.3g} TB/s", flush=True)
    for path, loaded in configs:
        for precision in args.precision:
            cfg = replace(loaded, train=replace(loaded.train, precision=precision))
            figures, table = measure(cfg, process, args.steps)
            rate = timing.matmul_rate(device, torch.float32 if figures["precision"] == "fp32" else torch.bfloat16)
            name = record.relative(Path(path).resolve())
            row: dict[str, Any] = {"case": f"{name}, {figures['precision']}, batch {args.batch}", "config": name}
            row |= figures
            row |= {"copy TB/s": copy / 1e12, "matmul TFLOP/s": rate / 1e12}
            row["HMU"] = row["images/s"] * flops.TRAINING * flops.ours(cfg) / rate
            words = (f"{key}: {value:.4g}" for key, value in row.items() if isinstance(value, float))
            print(", ".join([row["case"], device.type.upper(), *words]), flush=True)
            print(table, flush=True)
            if args.record:
                record.record(row | {"device": device.type}, "engine")
            gc.collect()  # the engine's parts refer to each other
