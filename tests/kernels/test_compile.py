"""Tests that every Triton kernel compiles without a GPU and keeps its values in registers."""

import importlib
import importlib.metadata
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastmim_kernels
from bench import record
from bench.ops import compile

ROOT = Path(__file__).parents[2]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ARCHITECTURES = [str(arch) for arch in compile.SHARED_MEMORY]

# (op, label of a kernel) -> the only architecture on which it may spill. On an A100, windows in float32 need a few
# registers more than the 255 available (8 to 30 spills).
SPILLS = {("window_attention_backward", f"{side} fp32"): "80" for side in ("6x6", "7x7", "12x12", "14x14", "16x16")}
# Triton 3.6, and perhaps other versions before 3.9, needs more registers there: 2 to 42 spills.
if importlib.metadata.version("triton") < "3.9":
    SPILLS |= {("window_attention_backward", label): "80" for label in ("8x8 fp32", "12x12 bf16", "14x14 bf16")}
    SPILLS |= {("low_pass", "inverse 224 uint8 bf16 tf32"): "80"}
# (op, start of the label) -> why the kernel cannot load or store 8 bytes at a time.
NARROW = {
    ("low_pass", "inverse"): "the program stores one channel, and the channels of a pixel lie together",
    ("mask_token_backward", "bf16 add"): "one number per column is stored",
    ("mean_fill", "sums"): "one number per channel is stored",
    ("patch_loss", "mean"): "one number is stored",
    ("patch_loss", "map"): "the values of a patch are a map apart",
    ("patch_scatter", "vit_h/14 bf16"): "lines of 84 bytes start at multiples of 4",
}


def check(text: str) -> None:
    """Checks that only known kernels spill or are narrow, and that shared memory suffices."""
    lines = text.splitlines()
    spills = [line for line in lines if "  spills" in line]
    known = [f"{op:<28}{label:<36}{arch:>4}" for (op, label), arch in SPILLS.items()]
    assert all(line.startswith(tuple(known)) for line in spills), spills
    totals = [line for line in lines if line.endswith(" ask for too much shared memory")]
    assert totals and all(line.endswith(", 0 ask for too much shared memory") for line in totals), text
    narrow = [line for line in lines if line.endswith(" narrow")]
    unexpected = [line for line in narrow if not any(line.split()[0] == op and label in line for op, label in NARROW)]
    assert not unexpected, unexpected


def compiled(text: str) -> set[tuple[str, str]]:
    """Returns op and architecture of every kernel in the output of `python -m bench compile`."""
    columns = {(line[:28].strip(), line[64:68].strip()) for line in text.splitlines()}
    return {(op, arch) for op, arch in columns if op in fastmim_kernels.OPS}


@pytest.mark.slow
def test_kernels_compile_for_sm_80_90_100_without_spills_in_the_shared_memory_there_is_and_with_wide_access():
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-m", "bench", "compile"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert "kernels spill" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    assert compiled(done.stdout) == set(itertools.product(fastmim_kernels.OPS, ARCHITECTURES))
    check(done.stdout)


def keep_first(monkeypatch, op: str, count: int) -> None:
    """Reduces the kernels that `python -m bench compile` sees to the first of an op."""
    module = importlib.import_module(f"fastmim_kernels.{op}.cuda")
    kernels = list(module.compile_only())[:count]
    monkeypatch.setattr(module, "compile_only", lambda: kernels)


@pytest.mark.costly("compile", "one kernel of each op, for one architecture each")
@pytest.mark.skipif(INTERPRETED, reason="compiles, and interprets nothing")
def test_a_kernel_of_each_op_compiles(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    expected = set(zip(fastmim_kernels.OPS, itertools.cycle(ARCHITECTURES), strict=False))
    for op, arch in sorted(expected):
        keep_first(monkeypatch, op, 1)
        compile.main(["--op", op, "--arch", arch])
    text = capsys.readouterr().out
    assert compiled(text) == expected
    check(text)


@pytest.mark.skipif(INTERPRETED, reason="compiles, and interprets nothing")
@pytest.mark.parametrize("count", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_rows_are_recorded(monkeypatch, tmp_path, count):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record.sys, "orig_argv", ["python", "-m", "bench", "compile"])
    keep_first(monkeypatch, "focal_frequency", count)
    assert compile.main(["--op", "focal_frequency", "--arch", "90", "--record"]) == 0
    rows = record.read("compile")
    assert len(rows) == count and rows[0]["case"] == "focal_frequency, focal frequency, sm_90"
    assert all(0 < row["shared"] <= 227 * 1024 for row in rows)  # used by a sum over the warps of a program
    assert all(0 < row["registers"] <= 255 and row["spills"] == 0 and row["widest_loads"] >= 64 for row in rows)
