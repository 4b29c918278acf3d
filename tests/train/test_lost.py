"""Tests that the other ranks name a frozen, dead or failing rank, save what they can, and end."""

import os
import signal
import threading
from unittest import mock

import pytest

from fastmim.data.demo import write_demo_images
from fastmim.run import checkpoint
from tests.methods.tiny import ROOT
from tests.train.launched import PATIENCE, Forks, train

SMALL = "--encoder.depth 1 --encoder.embed_dim 32 --encoder.patch_size 8 --train.precision fp32 --train.device cpu "
SMALL += "--data.size 32 32 --train.epochs 100 --train.global_batch 16 --run.save_every 2 --run.evaluate_every 0 "
SMALL += "--train.timeout 4"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_demo_images(str(folder), 32, (48, 48))
    return folder


def words(run, images, *more: str) -> list[str]:
    config = str(ROOT / "configs/debug/tiny_cpu.py")
    return [config, *SMALL.split(), "--data.root", str(images), "--run.dir", str(run), *more]


def wait(*_) -> None:
    signal.raise_signal(signal.SIGTERM)
    threading.Event().wait()


def train_until_wait(place: str, words: list[str]) -> None:
    """Trains with one function replaced by a signal and an endless wait."""
    from fastmim import train

    with mock.patch(place, wait):
        train.main(words)


@pytest.mark.costly("processes", "ranks that train")
@pytest.mark.parametrize(
    "place, status, said",
    [
        ("fastmim.data.manifest.Manifest.scan", 143, "stopped by SIGTERM before the first update"),
        ("fastmim.data.loader._BatchInProgress.result", 0, "stopped by SIGTERM; no update was done"),
        ("fastmim.tasks.pretrain.Pretraining.evaluate", 0, "stopped by SIGTERM; saved: update 3"),
        ("fastmim.tasks.pretrain.Pretraining.finish", 0, "stopped by SIGTERM; saved: update 3"),
        ("fastmim.tasks.trainer.Trainer.log", 0, "stopped by SIGTERM; saved: update 3"),
    ],
)
def test_sigterm_is_obeyed_at_every_moment(images, tmp_path, place, status, said):
    run = tmp_path / "run"
    every = ["--run.evaluate_every", "3" if "evaluate" in place else "0", "--data.held_out", "2", "--train.epochs", "2"]
    with Forks(tmp_path / "output", 1, train_until_wait, place, words(run, images, *every)) as forks:
        assert forks.wait() == [status]
        assert forks.outputs[0].read_text().splitlines()[-1].startswith(f"train.py: {said}")


def train_until(rank: int, event: str, words: list[str]) -> None:
    """Trains; a rank gets a signal, waits or fails in the fourth update."""
    from fastmim import train
    from fastmim.engine.engine import Engine

    step = Engine.train_step

    def train_step(self, number, lr, batches):
        if number == 3 and self.process.rank == rank:
            if event == "error":
                raise KeyError("a mistake")
            if event == "waits":
                self.module.register_forward_pre_hook(wait)
            else:
                os.kill(os.getpid(), getattr(signal, event))
        return step(self, number, lr, batches)

    Engine.train_step = train_step
    train.main(words)


@pytest.mark.costly("processes", "ranks that train")
@pytest.mark.parametrize(
    "victim, event, stage, words_of_other, saved",
    [
        (1, "SIGSTOP", 0, "rank 1 gave no sign of life for 3 s; saved: update 3; the same command continues", 3),
        (0, "SIGKILL", 0, "rank 0 ", 3),
        (1, "SIGKILL", 2, "rank 1 gave no sign of life", 2),
        (1, "error", 0, "rank 1 ended with KeyError: 'a mistake'; saved: update 3", 3),
    ],
)
def test_the_others_name_a_lost_rank_and_save(images, tmp_path, victim, event, stage, words_of_other, saved):
    run, other = tmp_path / "run", 1 - victim
    arguments = words(run, images, "--train.zero_stage", str(stage))
    with Forks(tmp_path / "output", 2, train_until, victim, event, arguments) as forks:
        forks.ranks[other].join(PATIENCE)
        assert forks.ranks[other].exitcode == 1
        output = forks.outputs[other].read_text()
    last = output.splitlines()[-1]
    assert last.startswith(f"train.py: {words_of_other}")
    # At ZeRO stage 2 no rank can save alone.
    assert last.endswith(f"saved: update {saved}; the same command continues" if not stage else "continues from 2")
    assert "Traceback" not in output and "gloo" not in output
    assert checkpoint.load(run / "checkpoints").step == saved


@pytest.mark.costly("processes", "a rank that trains")
def test_a_signal_while_waiting_saves_the_last_finished_update(images, tmp_path):
    run = tmp_path / "run"
    train(words(tmp_path / "undisturbed", images, "--run.stop_after", "5", "--run.trace", "True"))
    trace = words(run, images, "--run.trace", "True", "--run.save_every", "1000")
    with Forks(tmp_path / "output", 1, train_until, 0, "waits", trace) as forks:
        forks.check()
        assert "stopped by SIGTERM; saved: update 3; the same command continues" in forks.outputs[0].read_text()
    train(words(run, images, "--run.stop_after", "5", "--run.trace", "True"))
    traces = [(folder / "trace.jsonl").read_bytes() for folder in (run, tmp_path / "undisturbed")]
    assert traces[0] == traces[1]


def train_on_a_full_disk(words: list[str]) -> None:
    """Trains without being able to write a checkpoint."""
    from fastmim import train

    with mock.patch("fastmim.run.checkpoint.save", side_effect=checkpoint.CheckpointError("the disk is full")):
        train.main(words)


@pytest.mark.costly("processes", "ranks that train")
def test_all_ranks_end_if_the_last_checkpoint_cannot_be_written(images, tmp_path):
    """The last evaluation needs all ranks, so none may begin it alone."""
    last = ["--data.held_out", "2", "--run.evaluate_every", "1000", "--train.epochs", "2"]
    with Forks(tmp_path / "output", 2, train_on_a_full_disk, words(tmp_path / "run", images, *last)) as forks:
        assert forks.wait() == [1, 0]
        said = forks.outputs[0].read_text()
    assert "warning: the disk is full" in said and "update 3 is not saved in" in said and "(finished); " in said
