"""Tests of a pre-training run in this process: its last lines, and held-out images from a folder."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from fastmim.analysis import reconstruction
from fastmim.cli import main as fastmim
from fastmim.config.config_file import load
from fastmim.data.demo import write_demo_images
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import BadFilesError
from fastmim.data.split import split_images
from fastmim.run import checkpoint
from fastmim.run.meter import Meter
from fastmim.run.metrics import progress
from fastmim.tasks import pretrain
from fastmim.tasks.pretrain import Pretraining
from tests.methods.tiny import ROOT
from tests.train import launched

CONFIG = ROOT / "configs/debug/tiny_cpu.py"
TINY = load(CONFIG)
SMALL = """--data.size 16 24 --data.held_out 3 --data.workers 1 --encoder.depth 1 --encoder.embed_dim 32
--train.precision fp32 --train.global_batch 8 --train.epochs 2
--run.log_every 1 --run.evaluate_every 2"""


@pytest.fixture
def images(tmp_path):
    for part, count in (("train", 16), ("held_out", 4)):
        write_demo_images(str(tmp_path / part), count, (20, 20), part)
    return tmp_path


def words(images, *more):
    """Returns the words of a run on `images`, whose run folder is `images`/run."""
    settings = [*SMALL.split(), "--data.root", images / "train", "--run.dir", images / "run", *more]
    return [str(CONFIG), *map(str, settings)]


@pytest.mark.costly("model", "two runs; the first run in a process imports all that training needs")
def test_a_run_with_a_folder_of_held_out_images(images, capsys):
    out = launched.train(words(images, "--data.held_out_root", images / "held_out")).stdout
    assert "16 for training, 3 held out" in out and f") and {images / 'held_out'}" in out
    said = {line.split()[0]: line for line in out.splitlines()[-6:]}
    assert list(said) == ["learnt", "pictures", "curve", "encoder", "speed", "next"]
    assert said["learnt"].endswith(progress(images / "run")) and "% above interpolation (" in said["learnt"]
    for place in ("run/summary.png", "run/grids", "run/loss.png", "run/encoder"):
        assert (images / place).exists() and any(str(images / place) in line for line in said.values())
    # Three rows of images of 16 x 24 pixels, eight times as large, between header and caption; the curve on the left.
    grid = Image.open(images / "run/grids/00000004.png")
    assert grid.width == 5 * (8 * 24 + reconstruction.GAP) + reconstruction.GAP
    rows = 3 * (8 * 16 + reconstruction.GAP) + reconstruction.GAP + reconstruction.HEADER
    assert grid.height > rows and (grid.height - rows) % reconstruction.CAPTION == 0
    with Image.open(images / "run/summary.png") as summary:
        assert summary.height == grid.height
        assert list(summary.crop((summary.width - grid.width, 0, *summary.size)).getdata()) == list(grid.getdata())

    # The folder may move, like that of the training images. But a run without the folder has split the training images.
    (images / "held_out").rename(images / "moved")
    again = launched.train(words(images, "--data.held_out_root", images / "moved")).stdout
    assert again.splitlines()[-6:] == out.splitlines()[-6:]
    assert "another run: data.held_out_root was " in launched.refusal(words(images))
    (images / "moved").rename(images / "held_out")
    fastmim(["visualize", str(images / "run")])
    assert "The run was not trained on these images.\n" in capsys.readouterr().out
    fastmim(["visualize", str(images / "run"), "--images", str(images / "train"), "--count", "2"])
    assert "trained on 2 of these 2 images: rows 1, 2." in capsys.readouterr().out


def test_refusals(images):
    line = launched.refusal(words(images, "--data.held_out_root", images / "held_out", "--data.held_out", 5))
    assert f"data.held_out=5, but {images / 'held_out'} has 4 images: lower data.held_out, or add images" in line
    line = launched.refusal(words(images, "--data.held_out_root", images / "nowhere"))
    assert "no folder of images or list file at" in line
    line = launched.refusal(
        words(
            images,
            "--data.held_out_root",
            images / "held_out",
            "--data.root",
            images,
            "--run.dir",
            images.parent / "elsewhere",
        )
    )
    assert f"data.held_out_root: {images / 'held_out/demo_00000.jpg'} is in {images} too; give images" in line
    line = launched.refusal(words(images, "--data.held_out_root", images / "held_out", "--data.held_out", 0))
    assert "data.held_out_root is set, but data.held_out=0 takes no image of the folder: raise" in line


def test_split(images):
    train, other = Manifest.scan(str(images / "train")), str(images / "held_out")
    data = replace(TINY.data, held_out=2, held_out_root=other)
    for seed in (0, 1):
        trained, manifest, held_out = split_images(train, data, seed)
        assert torch.equal(trained, torch.arange(16)) and manifest == Manifest.scan(other)
        assert held_out.tolist() == [0, 2]
    trained, manifest, held_out = split_images(train, replace(data, held_out_root=None), 0)
    assert manifest is train and len(held_out) == 2 and len(trained) == 14
    (images / "list.txt").write_text(f"{images / 'train/demo_00003.jpg'}\n{images / 'held_out/demo_00003.jpg'}\n")
    with pytest.raises(ValueError, match=r"demo_00003.jpg is in .* too"):
        split_images(train, replace(data, held_out_root=str(images / "list.txt")), 0)


def test_what_was_progress(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n')
    assert progress(tmp_path) == "loss 0.2500 on training images; there are no held-out images to compare it on"
    with log.open("a") as file:
        file.write('{"step": 1, "held_out": 3.0, "trivial": {"zero": 1.0}}\n')
        file.write('{"step": 2, "held_out": 0.9, "trivial": {"zero": 1.0, "mean_patch": 0.5}}\n')
    assert progress(tmp_path) == "held-out loss 0.9000: 80.0 % above mean patch (0.5000), 10.0 % below zero (1.0000)"
    with log.open("a") as file:
        file.write('{"step": 3, "held_out": 0.5, "trivial": {"zero": 0.0, "mean_patch": 1.0}}\n')
    assert progress(tmp_path) == "held-out loss 0.5000: above zero (0.0000), 50.0 % below mean patch (1.0000)"


@pytest.mark.parametrize(
    "row", ['{"step": 1, "loss": null}', '{"step": 1, "held_out": null, "trivial": {"zero": 1.0}}']
)
def test_nothing_was_progress(tmp_path, row):
    (tmp_path / "metrics.jsonl").write_text(f"{row}\n")
    assert progress(tmp_path) == "nothing: the last loss is not finite"


def test_late_failures_cost_neither_the_training_nor_the_other_results(images, monkeypatch):
    """The disk is full for a picture, or the last evaluation lacks memory. The same command adds both later."""

    def full(folder):
        raise OSError(28, "No space left on device", str(folder / "loss.png"))

    def no_memory(self, images):
        raise MemoryError

    arguments = words(images, "--run.evaluate_every", "100")
    with monkeypatch.context() as broken:
        broken.setattr(pretrain, "plot_curve", full)
        broken.setattr(Pretraining, "predict", no_memory)
        done = launched.train(arguments, check=False)
    assert done.returncode == 1
    assert "without the last evaluation, loss.png: the same command tries again" in done.stderr
    assert "warning: the last evaluation failed (out of memory); the weights are saved" in done.stdout
    assert f"warning: loss.png failed (No space left on device: {images / 'run/loss.png'})" in done.stdout
    assert checkpoint.load(images / "run/checkpoints").step == 3
    assert (images / "run/encoder/model.safetensors").is_file() and not (images / "run/loss.png").exists()
    launched.train(arguments)
    assert (images / "run/loss.png").is_file() and (images / "run/grids/00000003.png").is_file()


@pytest.mark.parametrize("name", ["encoder", "grids", "checkpoints", "result.json"])
def test_what_is_in_the_way_of_a_result_is_refused_before_training(images, name):
    place = images / "run" / name
    if name == "encoder":
        place.mkdir(parents=True)
        (place / "notes.txt").touch()
    elif name == "result.json":
        place.mkdir(parents=True)
    else:
        place.parent.mkdir()
        place.touch()
    line = launched.refusal(words(images))
    assert str(place.parent) in line and name in line and not (images / "run/metrics.jsonl").exists()


def test_fewer_epochs_than_a_run_has_done_are_refused(images):
    launched.train(words(images, "--data.held_out", "0"))
    line = launched.refusal(words(images, "--data.held_out", "0", "--train.epochs", "1"))
    assert "holds update 4, but train.epochs=1 ends at 2: raise train.epochs, or choose another run.dir" in line


def test_a_far_checkpoint_is_said_once_the_time_of_an_update_is_known(images, monkeypatch):
    """The clock of the test says that each update takes a minute."""
    log = Meter.log
    monkeypatch.setattr(Meter, "log", lambda self, **values: log(self, **values) and 60.0)
    more = ["--data.held_out", "0", "--train.epochs", "100", "--run.stop_after", "2", "--run.save_every", "500"]
    out = launched.train(words(images, *more)).stdout
    assert out.count("warning: the next checkpoint comes in 3h19m (run.save_every=500 at 60 s an update)") == 1
    assert "lower run.save_every, for example to 30" in out


def fail(monkeypatch, update: int, error: Exception) -> None:
    """Makes an update of each pre-training run raise an error."""
    original = Pretraining.train_step

    def train_step(self, step, batches):
        if step == update:
            raise error
        return original(self, step, batches)

    monkeypatch.setattr(Pretraining, "train_step", train_step)


def test_memory_that_runs_out_in_training_is_one_line(images, monkeypatch):
    fail(monkeypatch, 2, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"))
    done = launched.train(words(images, "--data.held_out", "0", "--run.save_every", "2"), check=False)
    assert done.returncode == 1 and done.stderr.endswith(
        "train.py: out of memory: lower train.micro_batch (now 8); saved: update 2\n"
    )


def test_bad_training_files_beyond_replacement_lose_no_update(images, monkeypatch):
    """Images without a substitute end the run, which first saves the updates since the last checkpoint."""
    fail(monkeypatch, 3, BadFilesError("x.jpg cannot be used"))
    done = launched.train(words(images, "--data.held_out", "0", "--run.save_every", "100"), check=False)
    assert done.returncode == 1 and "x.jpg cannot be used; saved: update 3;" in done.stderr
    assert checkpoint.load(images / "run/checkpoints").step == 3


def test_held_out_images_that_cannot_be_used_are_said(images):
    for path in (images / "held_out").iterdir():
        path.write_bytes(b"no picture")
    out = launched.train(words(images, "--data.held_out_root", images / "held_out", "--run.stop_after", "1")).stdout
    assert "warning: left out of data.held_out_root: " in out
    assert "warning: 3 of 3 held-out images cannot be used: the run has no held-out loss and no pictures" in out
