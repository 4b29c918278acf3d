"""Tests of whole runs: one file in twenty is bad, or more than the budget allows."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fastmim.data import availability
from fastmim.data.demo import write_demo_images
from fastmim.run.folder import FOLDERS, RECORDS
from fastmim.tasks.pretrain import Pretraining
from tests import hostile_runs
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
    (tmp_path / "lock").touch()  # images of that run
    (tmp_path / "bad_files.jsonl").write_text('{"path": "of/another/run.jpg", "reason": "old"}\n')
    done = train(tmp_path, images)
    assert done.returncode == 0, done.stderr[-3000:]
    named = [json.loads(line)["path"] for line in (tmp_path / "bad_files.jsonl").read_text().splitlines()]
    assert sorted(named) == sorted(bad)  # held-out images too
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


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    write_demo_images(str(folder), 12, (40, 40))
    return folder


def few(run, images, updates="1"):
    return train(run, images, "--train.global_batch", "4", "--data.held_out", "0", "--run.stop_after", updates)


def test_a_run_writes_nothing_through_links_of_its_folder(images, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    for name in FOLDERS:
        run = tmp_path / f"run-{name}"
        run.mkdir()
        (run / name).symlink_to(precious)
        done = few(run, images)
        assert done.returncode == 2 and f"{name} is a link" in done.stderr and done.stderr.count("\n") == 1
    run = tmp_path / "run"
    run.mkdir()
    (run / "lock").symlink_to(precious / "file")
    done = few(run, images)
    assert done.returncode == 2 and "expected a file, found a link: remove it" in done.stderr
    (run / "lock").unlink()
    (run / "lock").touch()
    for name in RECORDS:
        if name not in FOLDERS:
            (run / name).symlink_to(precious / "file")
    (run / "manifest.json.tmp").symlink_to(precious / "file")
    few(run, images)
    assert [path.read_text() for path in precious.iterdir()] == ["precious"]


def test_a_folder_that_holds_other_files_is_not_taken_for_a_run(images, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    done = few(tmp_path, images)
    assert done.returncode == 2 and "holds config.json, which no run has written" in done.stderr
    assert (tmp_path / "config.json").read_text() == "{}" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.costly("model", "nine starts of a run, each refused")
def test_a_run_is_not_continued_from_a_checkpoint_that_is_not_its_own(images, tmp_path):
    sound = tmp_path / "sound"
    assert few(sound, images).returncode == 0
    changes = hostile_runs.of_no_use() | {
        "manifest is a number": hostile_runs.stored(3, "meta", "manifest"),
        "manifest is a list": hostile_runs.stored([], "meta", "manifest"),
        "counter of many": hostile_runs.weights(
            lambda state: state | {"scalars.optimizer_step": state["scalars.optimizer_step"].repeat(3)},
            "optimizer.safetensors",
        ),
        "moments of other shapes": hostile_runs.weights(
            lambda state: {name: tensor.flatten()[:1] for name, tensor in state.items()}, "optimizer.safetensors"
        ),
    }
    names = [*list(changes)[-4:], "no config", "encoder.depth is 10000000", "step is NaN", "model ends early"]
    for number, name in enumerate([*names, "weights of other shapes", "the checkpoint is a link to nothing"]):
        run = shutil.copytree(sound, tmp_path / str(number))
        changes[name](run)
        done = few(run, images, "2")
        assert done.returncode == 2 and done.stderr.startswith("train.py: "), f"{name}: {done.stderr[-3000:]}"
        assert done.stderr.count("\n") == 1 and len(done.stderr) < 1500, done.stderr


@pytest.fixture
def small(tmp_path):
    """Makes a folder of 40 pictures."""
    write_demo_images(str(tmp_path / "images"), 40, (16, 16))
    return tmp_path / "images"


SMALL = ["--data.size", "16", "16", "--data.loader", "pillow", "--train.global_batch", "8"]


def test_bad_files_that_are_good_again_leave_the_list_and_the_run_goes_on(small, tmp_path):
    names = sorted(path.name for path in small.iterdir())
    whole = {name: (small / name).read_bytes() for name in names[:20]}
    for name, content in whole.items():
        (small / name).write_bytes(bytes(len(content)))
    done = train(tmp_path / "run", small, *SMALL, "--data.held_out", "4", "--run.log_every", "1")
    assert done.returncode == 1 and "of 40 images are bad" in done.stdout
    listed = (tmp_path / "run/bad_files.jsonl").read_text().splitlines()
    assert len(listed) > 4 and (tmp_path / "run/checkpoints/latest").exists()
    for name, content in whole.items():
        if name != names[0]:
            (small / name).write_bytes(content)
    (tmp_path / "run/bad_files.jsonl").write_text("".join(f"{line}\n" for line in listed) + '{"path": "other.jpg"')
    done = train(tmp_path / "run", small, *SMALL, "--data.held_out", "4", "--run.stop_after", "3")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "files are good now, such as" in done.stdout
    named = [json.loads(line)["path"] for line in (tmp_path / "run/bad_files.jsonl").read_text().splitlines()]
    assert named in ([], names[:1])


def test_a_run_says_what_it_does_not_use(small, tmp_path):
    (small / "notes.txt").write_text("x")
    (small / "x.jp2").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n")
    (small / "gone.jpg").symlink_to("nowhere")
    for path in sorted(small.glob("*.jpg"))[:38:2]:
        dark = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16
        Image.fromarray(dark).save(small / f"{path.stem}-16.png")
    done = train(tmp_path / "run", small, *SMALL, "--data.held_out", "50", "--run.stop_after", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    (images,) = [line for line in done.stdout.splitlines() if line.startswith("images ")]
    assert images.endswith(
        "; 2 files left out: 1 .jp2 (JPEG 2000), 1 .txt; 1 missing, empty or unreadable, such as gone.jpg"
    )
    (warning,) = [line for line in done.stdout.splitlines() if line.startswith("warning ")]
    assert "values 0 to 4080; 16 of 256 levels survive the conversion to 8 bits" in warning
    assert "warning: data.held_out=50 leaves 10 images to train on, fewer than are held out; lower it" in done.stdout


def test_a_data_folder_that_stays_away_ends_the_run_saved(small, tmp_path, monkeypatch):
    monkeypatch.setattr(availability, "MAX_WAIT", 0.2)
    evaluate = Pretraining.evaluate

    def remove(task, done, meter):
        if small.exists():
            small.rename(tmp_path / "elsewhere")
        evaluate(task, done, meter)

    monkeypatch.setattr(Pretraining, "evaluate", remove)
    options = [
        *SMALL,
        "--data.held_out",
        "4",
        "--run.evaluate_every",
        "2",
        "--train.epochs",
        "50",
        "--data.prefetch",
        "0",
    ]
    done = train(tmp_path / "run", small, *options)
    assert done.returncode not in (0, None) and "Traceback" not in done.stderr
    assert "has been away for 0.2 s: none of its files can be read; mount or restore it" in done.stderr
    assert (tmp_path / "run/checkpoints/latest").exists()
    listed = tmp_path / "run/bad_files.jsonl"
    assert not listed.exists() or not listed.read_text()
