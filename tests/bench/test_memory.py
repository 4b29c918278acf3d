"""Peak memory is measured in child processes; running out of memory is a result; the search is right."""

import argparse
import json
import subprocess

import pytest

from bench import record
from bench.step import memory, trial
from bench.step.memory import Case, largest, state_bytes
from fastmim.data.demo import write_demo_images

CONFIG = "configs/debug/tiny_cpu.py"


@pytest.mark.parametrize("answer", [0, 1, 2, 3, 5, 8, 100, 127, 1000])
@pytest.mark.parametrize("at_most", [1, 7, 64, 4096])
def test_the_largest_batch_that_fits(answer, at_most):
    tried = []

    def fits(batch):
        tried.append(batch)
        return batch <= answer

    found = largest(fits, at_most)
    wanted = min(answer, at_most)
    assert wanted - wanted // 16 - (wanted > 15) <= found <= wanted
    assert max(tried) <= at_most and len(tried) == len(set(tried))


def test_bytes_of_the_states():
    whole = state_bytes(100, 10, "fp32", 0, 4)
    assert whole == {"weights": 440, "gradients": 400, "optimizer": 800}
    assert state_bytes(100, 10, "bf16-master", 0, 4) == {"weights": 220, "gradients": 400, "optimizer": 1200}
    assert state_bytes(100, 10, "fp32", 1, 4) == {"weights": 440, "gradients": 400, "optimizer": 300}
    assert state_bytes(100, 10, "fp32", 2, 4) == {"weights": 440, "gradients": 100, "optimizer": 300}
    assert state_bytes(100, 10, "fp32", 3, 4) == {"weights": 110, "gradients": 100, "optimizer": 300}


@pytest.fixture
def case(monkeypatch):
    """A case whose children need 100 MiB and 10 MiB an image."""

    def launch(path, settings, ranks, steps, warmup, limit):
        batch = int(next(s for s in settings if s.startswith("train.micro_batch=")).split("=")[1])
        peak = (100 + 10 * batch) * 2**20
        if limit and peak > limit:
            return None
        return [
            trial.Trial("cpu", "fp32", ranks, batch, [1.0], [0.0], [1.0], peak + rank, 10, 0, 9)
            for rank in range(ranks)
        ]

    monkeypatch.setattr(trial, "launch", launch)

    def make(**options):
        given = dict(data=None, set=[], ranks=2, steps=2, limit=None, batches=[2, 4], max_batch=64)
        return Case(CONFIG, 1, "auto", False, argparse.Namespace(**given | options))

    return make


def test_rows_of_batches(case):
    rows = list(memory.rows(case()))
    assert [row["batch"] for row in rows] == [2, 4]
    assert rows[0]["peak GiB"] == (120 * 2**20 + 1) / 2**30  # of the process that needs most
    assert rows[0]["above them GiB"] == pytest.approx(rows[0]["peak GiB"] - (40 + 40 + 12 * 10 / 2) / 2**30)
    assert "peak 0.117 GiB per process (CPU" in memory.text(rows[0])


def test_the_largest_batch_of_a_budget(case):
    (row,) = memory.rows(case(limit=0.5))
    assert row["largest batch"] in (40, 41) and row["peak GiB"] <= 0.5
    assert "largest batch that fits in 0.5 GiB" in memory.text(row)
    (row,) = memory.rows(case(limit=0.05))
    assert row["out of memory"] and memory.text(row).endswith("out of memory of 0.05 GiB")


@pytest.mark.slow
def test_two_processes_under_the_launcher(capsys, monkeypatch, tmp_path):
    write_demo_images(str(tmp_path / "images"), 24, (48, 48))
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(record.sys, "orig_argv", ["python", "-m", "bench", "memory", CONFIG])
    words = ["--data", str(tmp_path / "images"), "--ranks", "2", "--stages", "2", "--batches", "2", "--steps", "1"]
    with pytest.raises(SystemExit) as end:
        memory.main([CONFIG, *words, "--record", "--set", "data.size=32,32"])
    assert end.value.code == 0, capsys.readouterr().out
    (row,) = record.read("memory")
    assert row["ranks"] == 2 and row["stage"] == 2 and row["peak GiB"] > row["above them GiB"] > 0
    assert row["weights GiB"] * 2**30 == 4 * 225_968


@pytest.fixture
def settings(tmp_path):
    write_demo_images(str(tmp_path), 24, (48, 48))
    return [f"data.root={tmp_path}", "data.size=32,32", "train.global_batch=4"]


@pytest.mark.costly("processes", "the limit of memory is that of a child process")
def test_running_out_of_memory_is_a_result(settings):
    assert trial.launch(CONFIG, settings, 1, 1, 0, limit=2**20) is None


def run_inside(command, **_) -> subprocess.CompletedProcess:
    """Runs a child of `trial.launch` in this process."""
    try:
        trial.main(json.loads(command[-1]))
    except ValueError as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
    return subprocess.CompletedProcess(command, 0, "", "")


@pytest.mark.parametrize("inside", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_child_trains_or_says_why_it_cannot(settings, inside, monkeypatch):
    if inside:
        monkeypatch.setattr(trial.subprocess, "run", run_inside)
    (found,) = trial.launch(CONFIG, settings, 1, 1, 0)
    assert len(found.losses) == 1 and found.batch == 4 and found.trained + found.frozen == 225_968
    with pytest.raises(ValueError, match=f"^{CONFIG}: train.epochs=1e-05"):
        trial.launch(CONFIG, [*settings, "train.epochs=1e-5"], 1, 1, 0)
