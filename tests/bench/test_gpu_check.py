"""The GPU round: its parts keep to their limits and are judged; it refuses a machine without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu_check
from bench.gpu_check import Part

ROOT = Path(__file__).parents[2]


def test_verdicts(tmp_path, capsys):
    round_ = [
        Part("fine", ["-c", "print('one'); print('two')"], 60),
        Part("wrong", ["-c", "raise SystemExit(3)"], 60),
        Part("slow", ["-c", "import time; print('begun', flush=True); time.sleep(60)"], 2),
    ]
    assert not gpu_check.check(round_, 100, tmp_path)
    table = capsys.readouterr().out.splitlines()[-3:]
    for line, words in zip(table, (["fine", "ok", "two"], ["failed (3)"], ["stopped after 2 s"]), strict=True):
        assert all(word in line for word in words), line
    assert (tmp_path / "fine.log").read_text() == "one\ntwo\n"
    assert gpu_check.check(round_[:1], 100, tmp_path)


def test_nothing_runs_when_the_time_is_up(tmp_path, capsys):
    assert not gpu_check.check([Part("late", ["-c", "print(1)"], 60)], 1, tmp_path)
    assert "no time left" in capsys.readouterr().out


def test_every_part_can_be_started(tmp_path):
    """Modules and configs that it names exist, and take these options."""
    for part in gpu_check.parts("images", tmp_path):
        script = part.arguments[0]
        if script != "-m":
            assert (ROOT / script).is_file()
            continue
        module, *options = part.arguments[1:]
        if module.startswith("bench"):
            done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
            assert all(option in done.stdout for option in options if option.startswith("--")), (module, done.stderr)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_refuses_without_a_gpu():
    done = subprocess.run([sys.executable, "-m", "bench.gpu_check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "expected a GPU" in done.stderr and not done.stdout
