"""Timing of calls that take turns, without the time of the host, and measures of a machine's limits."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch.profiler import profile

Name = TypeVar("Name", bound=Hashable)
Run = tuple[Callable[[], Any], Callable[[Any], Any]]
"""Functions of a timed run: the first runs before the clock starts, and its result goes to the second."""

HEAD_START = 2**21
"""Cycles, about a millisecond, that a GPU sleeps at first while the host queues the timed work."""
LONGEST_HEAD_START = 2**26
COPIED = {"cuda": 2**30, "cpu": 2**26}
"""Bytes of the copy of `copy_rate`."""


def nothing() -> None:
    """Prepares nothing."""


def measure(runs: dict[Name, Run], samples: int, device: str) -> dict[Name, list[float]]:
    """Returns the milliseconds of each run.

    The runs take turns, so that a busy machine slows all runs equally. The first three turns are a warm-up and are not
    kept. On a GPU each run starts with a cold L2 cache.
    """
    times: dict[Name, list[float]] = {name: [] for name in runs}
    clocks = {name: host_time if device == "cpu" else DeviceTime() for name in runs}
    for sample in range(-3, samples):
        for name, (prepare, run) in runs.items():
            elapsed = clocks[name](prepare, run)
            if sample >= 0:
                times[name].append(elapsed)
    return times


def host_time(prepare: Callable[[], Any], run: Callable[[Any], Any]) -> float:
    """Returns the milliseconds of a run on the CPU."""
    argument = prepare()
    start = time.perf_counter()
    run(argument)
    return (time.perf_counter() - start) * 1e3


class DeviceTime:
    """Clock of a GPU: the milliseconds of its work on a run, without the time of the host.

    The GPU sleeps while the host queues the run, so the work follows without gaps. If the GPU wakes before the host is
    done, the clock repeats the sample with twice the sleep, and keeps the longer sleep. A run that waits for the GPU
    can never be queued in time. For such a run, the sample with the longest sleep counts.
    """

    def __init__(self):
        self.cycles = HEAD_START
        self.flush = flush_buffer()

    def __call__(self, prepare: Callable[[], Any], run: Callable[[Any], Any]) -> float:
        while True:
            argument = prepare()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.flush.zero_()  # removes the run's data from the L2 cache
            torch.cuda._sleep(self.cycles)
            begin.record()
            run(argument)
            end.record()
            queued = not begin.query()
            end.synchronize()
            if queued or self.cycles >= LONGEST_HEAD_START:
                return begin.elapsed_time(end)
            self.cycles *= 2


@functools.cache
def flush_buffer() -> torch.Tensor:
    """Returns a buffer on the GPU that is larger than any L2 cache."""
    return torch.empty(64 << 20, device="cuda")


@functools.cache
def matmul_rate(device: torch.device | str, dtype: torch.dtype) -> float:
    """Returns the FLOP/s of a large square matrix product, the median of five."""
    size = 8192 if torch.device(device).type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = measure({"matmul": (nothing, lambda _: a @ b)}, 5, torch.device(device).type)
    return 2 * size**3 / statistics.median(times["matmul"]) * 1e3


def copy_rate(device: torch.device) -> float:
    """Returns the bytes a second that a copy reads and writes, the median of five."""
    source = torch.zeros(COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = measure({"copy": (nothing, lambda _: target.copy_(source))}, 5, device.type)["copy"]
    return 2 * source.nbytes / statistics.median(times) * 1e3


def events(profiled: profile) -> list[Any]:
    """Returns the events of a profile, which torch's types do not declare."""
    profiler: Any = profiled.profiler
    return profiler.kineto_results.events()


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Returns the 20th and the 80th percentile."""
    if len(values) == 1:
        return values[0], values[0]
    p20, _, _, p80 = statistics.quantiles(values, n=5, method="inclusive")
    return p20, p80
