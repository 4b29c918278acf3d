"""Every op's benchmark can be run: all its functions, forward and backward, on its first case."""

import importlib

import pytest
import torch

from bench.ops import DTYPES, speed
from fastmim_kernels import OPS


@pytest.mark.parametrize("name", OPS)
def test_functions_run(name):
    cases = importlib.import_module(f"fastmim_kernels.{name}.cases")
    case = next((case for case in cases.BENCH if "batch 8" in case), next(iter(cases.BENCH)))
    dtype = DTYPES[cases.BENCH_DTYPES[0]]
    x, functions = cases.functions(cases.BENCH[case], dtype, "cpu")
    assert {"ours", "reference"} <= set(functions)
    grad = speed.gradient(functions["ours"](x))
    for arm, function in functions.items():
        for phase in speed.PHASES if grad is not None else ["forward"]:
            prepare, run = speed.split_phase(function, x, grad, phase)
            run(prepare())
        if grad is not None and arm != "official":  # which may have a leaf of its own
            assert torch.isfinite(x.grad).all()
    assert cases.bytes_moved(cases.BENCH[case], dtype) >= 0
    assert speed.error(OPS[name], cases.inputs(cases.BENCH[case], dtype)) < 1e-4


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rows_and_roofline(compiled, tmp_path, capsys, monkeypatch):
    if not compiled:  # the compiler takes most of the time
        monkeypatch.setattr(torch, "compile", lambda function: function)
    words = ["--op", "unshuffle", "--case", "batch 8", "--dtype", "fp32", "--samples", "2"]
    speed.main([*words, "--plot", str(tmp_path / "a.png")])
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
        speed.main(words)
    assert left.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", OPS)
def test_cases_of_more_images_are_cases(name):
    """An op that moves images moves proportionally more bytes for more images."""
    cases = importlib.import_module(f"fastmim_kernels.{name}.cases")
    dtype = DTYPES[cases.BENCH_DTYPES[-1]]
    for case in list(cases.BENCH.values())[:4]:
        before = getattr(getattr(case, "forward", case), "batch", None)
        assert speed.enlarge(case, 1) == case
        if before:
            large = speed.enlarge(case, 2 * before)
            assert speed.enlarge(large, 2 * before) == large
            ratio = cases.bytes_moved(large, dtype) / cases.bytes_moved(case, dtype)
            assert ratio == pytest.approx(2, rel=0.05)


def test_peak_memory_counts_what_is_alive_at_once():
    def run(_):
        x = torch.empty(1 << 20)
        x = torch.empty(1 << 19)  # while the first is still held
        return x

    assert speed.peak_memory(run, "cpu") == 6 << 20
