"""Every op's benchmark can be run: all its functions, forward and backward, on its first case."""

import importlib

import pytest
import torch

from bench import ops
from fastmim_kernels import OPS


@pytest.mark.parametrize("name", OPS)
def test_functions_run(name):
    cases = importlib.import_module(f"fastmim_kernels.{name}.cases")
    case = next((case for case in cases.BENCH if "batch 8" in case), next(iter(cases.BENCH)))
    dtype = ops.DTYPES[cases.BENCH_DTYPES[0]]
    x, functions = cases.functions(cases.BENCH[case], dtype, "cpu")
    assert {"ours", "reference"} <= set(functions)
    grad = ops.gradient(functions["ours"](x))
    for arm, function in functions.items():
        for phase in ops.PHASES if grad is not None else ["forward"]:
            prepare, run = ops.prepared(function, x, grad, phase)
            run(prepare())
        if grad is not None and arm != "official":  # which may have a leaf of its own
            assert torch.isfinite(x.grad).all()
    assert cases.bytes_moved(cases.BENCH[case], dtype) >= 0
    assert ops.error(OPS[name], cases.inputs(cases.BENCH[case], dtype)) < 1e-4


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rows_and_roofline(compiled, tmp_path, capsys, monkeypatch):
    if not compiled:  # the compiler takes most of the time
        monkeypatch.setattr(torch, "compile", lambda function: function)
    ops.main(
        [
            "--op",
            "unshuffle",
            "--case",
            "batch 8",
            "--dtype",
            "fp32",
            "--samples",
            "2",
            "--plot",
            str(tmp_path / "a.png"),
        ]
    )
    table = capsys.readouterr().out
    assert all(word in table for word in ("official", "compiled", "copy", "forward", "backward", "both"))
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--op", "unshufle"], "got unshufle; nearest: unshuffle"),
        (["--op", "unshuffle", "--case", "mae_vit_h/15"], "nearest: mae_vit_h/14"),
        (["--op", "philox", "--dtype", "fp32"], "nothing to measure"),
    ],
)
def test_what_there_is_not_is_refused(words, message, capsys):
    with pytest.raises(SystemExit) as left:
        ops.main(words)
    assert left.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


class Gpu:
    """A GPU with a clock of its own: work is queued by the host, which takes time, and done in order."""

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
        monkeypatch.setattr(ops, "flush_buffer", lambda: torch.empty(1))

    def sleep(self, cycles):
        self.sleeps.append(cycles)
        self.work(0, cycles * self.wakes)

    def work(self, host: float, device: float):
        """Queues `device` milliseconds of work, which takes the host `host`."""
        self.host += host
        self.free = max(self.free, self.host) + device


def test_a_gpu_is_timed_not_its_host(monkeypatch):
    """Ten launches of 0.1 ms for the host and 0.01 ms for the GPU are 0.1 ms of work."""
    gpu = Gpu(monkeypatch, wakes=0.3 / ops.HEAD_START)  # a sleep of 0.3 ms is too short
    runs = {"many": (ops.nothing, lambda _: [gpu.work(0.1, 0.01) for _ in range(10)])}
    times = ops.measure(runs, 5, "cuda")
    assert times["many"] == pytest.approx([0.1] * 5)
    assert gpu.sleeps[:3] == [ops.HEAD_START, 2 * ops.HEAD_START, 4 * ops.HEAD_START]
    assert set(gpu.sleeps[3:]) == {4 * ops.HEAD_START}  # found once


def test_a_run_that_waits_for_the_gpu_ends(monkeypatch):
    gpu = Gpu(monkeypatch, wakes=0.3 / ops.HEAD_START)

    def waits(_):
        gpu.work(0.1, 0.01)
        gpu.host = gpu.free

    assert len(ops.measure({"waits": (ops.nothing, waits)}, 2, "cuda")["waits"]) == 2
    assert max(gpu.sleeps) == ops.LONGEST_HEAD_START and len(gpu.sleeps) < 20


@pytest.mark.parametrize("name", OPS)
def test_cases_of_more_images_are_cases(name):
    """What moves with images moves as many times more bytes."""
    cases = importlib.import_module(f"fastmim_kernels.{name}.cases")
    dtype = ops.DTYPES[cases.BENCH_DTYPES[-1]]
    for case in list(cases.BENCH.values())[:4]:
        before = getattr(getattr(case, "forward", case), "batch", None)
        assert ops.of_batch(case, 1) == case
        if before:
            large = ops.of_batch(case, 2 * before)
            assert ops.of_batch(large, 2 * before) == large
            ratio = cases.bytes_moved(large, dtype) / cases.bytes_moved(case, dtype)
            assert ratio == pytest.approx(2, rel=0.05)


def test_peak_memory_counts_what_is_alive_at_once():
    def run(_):
        x = torch.empty(1 << 20)
        x = torch.empty(1 << 19)  # while the first is still held
        return x

    assert ops.peak_memory(run, "cpu") == 6 << 20
