"""A whole run over a folder of which one file in twenty is bad, and one over its budget of them."""

import json

import pytest

from fastmim.data.demo import write_demo_images
from tests.data.hostile import write_hostile
from tests.methods.tiny import ROOT
from tests.train import launched


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    entries = write_hostile(folder / "hostile")
    bad = {f"hostile/{entry.name}" for entry in entries.values() if entry.bad and not entry.late}
    write_demo_images(str(folder), 20 * len(bad) - len(entries), (40, 40))
    assert len(bad) >= 40
    return folder, bad


def train(run, folder, *options):
    settings = {
        "data.root": folder, "run.dir": run, "encoder.depth": 1, "encoder.embed_dim": 32, "encoder.patch_size": 8,
        "train.epochs": 1, "train.global_batch": 32, "run.log_every": 5, "run.evaluate_every": 20,
        "optim.warmup_epochs": 0, "data.held_out": 30,
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return launched.train([str(ROOT / "configs/debug/tiny_cpu.py"), *words, *options], check=False)


@pytest.mark.costly("model", "one epoch of a folder of which one file in twenty is bad")
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_the_run_completes_and_names_each_bad_file_once(folder, tmp_path):
    images, bad = folder
    (tmp_path / "bad_files.jsonl").write_text('{"path": "of/another/run.jpg", "reason": "old"}\n')
    done = train(tmp_path, images)
    assert done.returncode == 0, done.stderr[-3000:]
    named = [json.loads(line)["path"] for line in (tmp_path / "bad_files.jsonl").read_text().splitlines()]
    assert sorted(named) == sorted(bad)  # those held out too
    assert f"{len(bad)} bad files replaced" in done.stdout and "held-out loss" in done.stdout


def test_over_the_budget_it_saves_and_stops(folder, tmp_path):
    done = train(tmp_path, folder[0], "--data.bad_budget", "0.005")
    assert done.returncode == 1
    assert "more than data.bad_budget=0.005); raise it to go on" in done.stdout
    assert (tmp_path / "checkpoints/latest").exists()


def test_over_the_budget_at_the_last_update_is_a_failure_too(folder, tmp_path):
    done = train(tmp_path, folder[0], "--data.bad_budget", "0", "--run.log_every", "1000")
    assert done.returncode == 1 and "more than data.bad_budget=0.0" in done.stdout
    assert not (tmp_path / "encoder").exists()
