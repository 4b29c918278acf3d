"""The GPU round: its parts keep to their limits and are judged; it refuses a machine without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastmim_kernels
from bench import each_op, gpu_check
from bench.gpu_check import Part, python

ROOT = Path(__file__).parents[2]


def test_verdicts(tmp_path, capsys):
    wrong, slow = python("-c", "raise SystemExit(3)"), "import time; print('begun', flush=True); time.sleep(60)"
    round_ = [
        Part("fine", [python("-c", "print('one'); print('two')")], 60),
        Part("wrong", [wrong], 60),
        Part("slow", [python("-c", slow)], 5),
        Part("some wrong", [python("-c", "raise SystemExit('this')"), python("-c", "print('not this')")], 60),
        Part("some slow", [python("-c", slow), python("-c", "print(1)")], 5),
        Part("missing", [["no-such-program"], ["nor-this"]], 60),
    ]
    assert not gpu_check.check(round_, 100, tmp_path)
    table = capsys.readouterr().out.splitlines()[-len(round_) :]
    verdicts = ("ok", "failed (3)", "stopped after 5 s", "failed (1)", "stopped after 5 s", "no no-such-program")
    for line, part, words in zip(table, round_, verdicts, strict=True):
        assert line.startswith(part.name) and words in line, line
    assert table[0].endswith("two") and table[3].endswith("  this")
    assert (tmp_path / "fine.log").read_text() == "one\ntwo\n"
    assert gpu_check.check(round_[:1], 100, tmp_path)


def test_processes_of_a_part_run_at_once(tmp_path):
    """Each waits for the other's file."""
    wait = "import pathlib, sys, time\npathlib.Path(sys.argv[1]).touch()\nwhile not pathlib.Path(sys.argv[2]).exists():"
    names = [str(tmp_path / name) for name in "ab"]
    both = Part("both", [python("-c", f"{wait} time.sleep(0.1)", *order) for order in (names, names[::-1])], 60)
    assert gpu_check.run(both, 60, tmp_path)[0] == "ok"


def test_nothing_runs_when_the_time_is_up(tmp_path, capsys):
    assert not gpu_check.check([Part("late", [python("-c", "print(1)")], 60)], 1, tmp_path)
    assert "no time left" in capsys.readouterr().out


def test_every_part_can_be_started(tmp_path):
    """Modules and configs that it names exist, and take these options."""
    for part in gpu_check.parts("images", tmp_path):
        command = part.commands[0]
        script, *options = command[command.index(sys.executable) + 1 :]
        if script != "-m":
            assert (ROOT / script).is_file()
        elif options[0].startswith("bench"):
            done = subprocess.run(
                [sys.executable, "-m", options[0], "--help"], cwd=ROOT, capture_output=True, text=True
            )
            assert all(option in done.stdout for option in options if option.startswith("--")), (options, done.stderr)


def test_shares_are_all_tests():
    """Of the tests that the processes of a part take, each is taken once."""
    options = ["tests/kernels/test_scale_.py", "--collect-only", "-q", "-k", "cpp"]
    shares = ([], ["--share", "1/2"], ["--share", "2/2"])
    outputs = [
        subprocess.run(python("-m", "pytest", *options, *share), cwd=ROOT, capture_output=True, text=True).stdout
        for share in shares
    ]
    every, first, second = ([line for line in output.splitlines() if "::" in line] for output in outputs)
    assert sorted(first + second) == sorted(every) and abs(len(first) - len(second)) <= 1 < len(every)


def test_a_share_of_the_calls_runs():
    found = each_op.calls()
    done = subprocess.run(
        python("-m", "bench.each_op", "--device", "cpu", "--share", f"4/{len(found)}"),
        cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [" ".join(map(str, found[3]))]
    assert {name for name, *_ in found} == fastmim_kernels.OPS.keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_refuses_without_a_gpu():
    done = subprocess.run([sys.executable, "-m", "bench.gpu_check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "expected a GPU" in done.stderr and not done.stdout
