"""A GPU is timed apart from its host."""

import pytest
import torch

from bench import timing


class Gpu:
    """Stand-in for a GPU with its own clock: the host takes time to queue work, which runs in order."""

    def __init__(self, monkeypatch, wakes: float):
        """`wakes`: milliseconds of a sleep of one cycle."""
        self.host = self.free = 0.0
        self.wakes, self.sleeps = wakes, []
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                self.at = None

            def record(self):
                self.at = max(gpu.free, gpu.host)

            def query(self):
                return self.at <= gpu.host

            def synchronize(self):
                gpu.host = max(gpu.host, self.at)

            def elapsed_time(self, other):
                return other.at - self.at

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "_sleep", self.sleep)
        monkeypatch.setattr(timing, "flush_buffer", lambda: torch.empty(1))

    def sleep(self, cycles):
        self.sleeps.append(cycles)
        self.work(0, cycles * self.wakes)

    def work(self, host: float, device: float):
        """Queues `device` milliseconds of work, which takes the host `host`."""
        self.host += host
        self.free = max(self.free, self.host) + device


def test_a_gpu_is_timed_not_its_host(monkeypatch):
    """Ten launches of 0.1 ms for the host and 0.01 ms for the GPU are 0.1 ms of work."""
    gpu = Gpu(monkeypatch, wakes=0.3 / timing.HEAD_START)  # a sleep of 0.3 ms is too short
    runs = {"many": (timing.nothing, lambda _: [gpu.work(0.1, 0.01) for _ in range(10)])}
    times = timing.measure(runs, 5, "cuda")
    assert times["many"] == pytest.approx([0.1] * 5)
    assert gpu.sleeps[:3] == [timing.HEAD_START, 2 * timing.HEAD_START, 4 * timing.HEAD_START]
    assert set(gpu.sleeps[3:]) == {4 * timing.HEAD_START}  # found once


def test_a_run_that_waits_for_the_gpu_ends(monkeypatch):
    gpu = Gpu(monkeypatch, wakes=0.3 / timing.HEAD_START)

    def waits(_):
        gpu.work(0.1, 0.01)
        gpu.host = gpu.free

    assert len(timing.measure({"waits": (timing.nothing, waits)}, 2, "cuda")["waits"]) == 2
    assert max(gpu.sleeps) == timing.LONGEST_HEAD_START and len(gpu.sleeps) < 20


def test_spread():
    assert timing.spread([3.0]) == (3.0, 3.0)
    assert timing.spread([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == (2.0, 5.0)
