"""The GPU round: its parts keep to their limits and are judged; it refuses a machine without a GPU."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastmim_kernels
from bench import gpu_check
from bench.gpu_check import Part, python
from tests import conftest

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


def start(monkeypatch, capsys, *words) -> tuple[int, str, str]:
    """Runs `python -m WORDS` in this process; returns exit status, output and errors."""
    monkeypatch.setattr(sys, "argv", list(words))
    with pytest.raises(SystemExit) as end:
        runpy.run_module(words[0], run_name="__main__")
    return (end.value.code, *capsys.readouterr())


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_part_can_be_started(tmp_path, monkeypatch, capsys):
    """Modules and configs that it names exist, and take these options."""
    started = set()
    for part in gpu_check.parts("images", tmp_path):
        command = part.commands[0]
        script, *options = command[command.index(sys.executable) + 1 :]
        if script != "-m":
            assert (ROOT / script).is_file()
        elif options[0].startswith("bench"):
            status, help_, _ = start(monkeypatch, capsys, options[0], "--help")
            assert status == 0 and all(option in help_ for option in options if option.startswith("--")), options
            started.add(options[0])
    assert started == {"bench.each_op", "bench.ops", "bench.compare", "bench.loader"}


def shared(share: str, items: list) -> list:
    """Returns the items that a process with this `--share` takes; the others are reported as deselected."""
    left, given = list(items), []
    hook = SimpleNamespace(pytest_deselected=lambda items: given.extend(items))
    conftest.pytest_collection_modifyitems(SimpleNamespace(getoption=lambda name: share, hook=hook), left)
    assert sorted(left + given) == items
    return left


def test_shares_are_all_tests():
    """Each test is taken once."""
    items = list(range(11))
    shares = [shared(f"{k}/3", items) for k in (1, 2, 3)]
    assert sorted(sum(shares, [])) == items and {len(share) for share in shares} == {3, 4}
    assert shared(None, items) == shared("1/1", items) == items
    for share in ("0/2", "3/2", "2", "1/0"):
        with pytest.raises(pytest.UsageError, match=rf"--share: expected K/N with 1 <= K <= N, got {share}"):
            shared(share, items)


@pytest.mark.slow
def test_shares_of_three_processes():
    options = ["tests/kernels/test_scale_.py", "--collect-only", "-q"]
    shares = ([], ["--share", "1/2"], ["--share", "2/2"])
    outputs = [
        subprocess.run(python("-m", "pytest", *options, *share), cwd=ROOT, capture_output=True, text=True).stdout
        for share in shares
    ]
    every, first, second = ([line for line in output.splitlines() if "::" in line] for output in outputs)
    assert sorted(first + second) == sorted(every) and abs(len(first) - len(second)) <= 1 < len(every)


def test_a_share_of_the_calls_runs(monkeypatch, capsys):
    from bench import each_op

    found, launched = each_op.calls(), []
    assert {name for name, *_ in found} == fastmim_kernels.OPS.keys()
    name, case, dtype = found[3]
    module = SimpleNamespace(inputs=lambda *call: call, launch=lambda *inputs: launched.append(inputs))
    monkeypatch.setattr(each_op, "calls", lambda: found)
    monkeypatch.setattr(each_op, "importlib", SimpleNamespace(import_module=lambda path: module))
    monkeypatch.setattr(sys, "argv", ["each_op", "--device", "cpu", "--share", f"4/{len(found)}"])
    each_op.main()
    assert launched == [(case, dtype, "cpu")] and capsys.readouterr().out == f"{name} {case} {dtype}\n"


@pytest.mark.slow
def test_a_share_of_the_calls_runs_in_the_interpreter():
    from bench import each_op

    found = each_op.calls()
    done = subprocess.run(
        python("-m", "bench.each_op", "--device", "cpu", "--share", f"4/{len(found)}"),
        cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [" ".join(map(str, found[3]))]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_refuses_without_a_gpu(monkeypatch, capsys):
    status, output, errors = start(monkeypatch, capsys, "bench.gpu_check")
    assert status == 2 and "expected a GPU" in errors and not output
