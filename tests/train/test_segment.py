"""Tests of segmentation: learn, stop, resume, count every test pixel once, refuse."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastmim.bittrace import diff
from fastmim.run import checkpoint
from tests.methods.tiny import ROOT
from tests.train import launched
from tests.train.launched import refusal, result, rows

CONFIG = ROOT / "configs/debug/shapes_segment_vit.py"
SMALL = "--encoder.depth 2 --encoder.embed-dim 32 --encoder.num-heads 2 --encoder.patch-size 16 --data.size 64 64 "
SMALL += "--decoder.channels 16 --decoder.aux_channels 8 --data.loader pillow --train.global_batch 8 "
SMALL += "--train.micro_batch 4 --train.epochs 3 --optim.warmup_epochs 1 "
SMALL += "--run.init None --run.log_every 2 --run.trace True "
SMALL += "--data.classes 4 --data.names background rectangle disc triangle"

SLIDE = ("--data.test_mode", "slide", "--data.stride", "40", "40")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Makes shapes with an odd number of test images. Some are larger than a window."""
    from tests.shapes import write_shapes

    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, "train", 16, seed=1, side=64)
    write_shapes(folder, "test", 7, seed=2, side=96)
    return folder


def words(shapes: Path, run: Path, *args: str) -> list[str]:
    files = ["--data.root", str(shapes / "train"), "--data.masks", str(shapes / "train_masks")]
    files += ["--data.test", str(shapes / "test"), "--data.test_masks", str(shapes / "test_masks")]
    return [str(CONFIG), *SMALL.split(), *files, "--run.dir", str(run), *args]


def train(shapes: Path, run: Path, *args: str):
    launched.train(words(shapes, run, *args))


def scores(run: Path) -> dict:
    return {name: value for name, value in result(run).items() if name in ("miou", "pixel_accuracy", "iou")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shapes):
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(shapes, run, "--run.evaluate_every", "3", *SLIDE)
    return run


def test_a_run_leaves_what_it_promises(undisturbed):
    found = result(undisturbed)
    assert list(found["iou"]) == ["background", "rectangle", "disc", "triangle"]
    assert found["images"] == 7 and found["updates"] == 6 and found["hours"] > 0 and found["peak_bytes"] > 2**20
    known = [iou for iou in found["iou"].values() if iou is not None]
    assert found["miou"] == pytest.approx(sum(known) / len(known)) and 0 < found["pixel_accuracy"] < 1
    tested = [row for row in rows(undisturbed) if "test_miou" in row]
    assert [row["step"] for row in tested] == [3, 6] and tested[1]["test_miou"] == found["miou"]


def test_a_run_that_was_stopped_goes_on_bit_for_bit(undisturbed, shapes, tmp_path):
    train(shapes, tmp_path / "run", *SLIDE, "--run.stop_after", "2")
    assert not (tmp_path / "run/result.json").exists()
    train(shapes, tmp_path / "run", *SLIDE)
    assert diff(undisturbed / "trace.jsonl", tmp_path / "run/trace.jsonl") is None
    once, again = (checkpoint.load(run / "checkpoints").state for run in (undisturbed, tmp_path / "run"))
    assert all(torch.equal(once[kind][n], again[kind][n]) for kind in once for n in once[kind])
    assert scores(tmp_path / "run") == scores(undisturbed)


@pytest.mark.costly("processes", "two ranks train at ZeRO 3")
def test_processes_do_not_count(undisturbed, shapes, tmp_path):
    """Two processes train on the same samples and get the same scores as one process on the same weights.

    They test 4 and 3 images at stage 3, where no process may wait for another. One process tests at the same stage,
    because stage 3 rounds differently.
    """
    two, one, whole = (tmp_path / name for name in ("two", "one", "whole"))
    stage = ("--train.zero_stage", "3")
    launched.train_on_two(words(shapes, two, *SLIDE, *stage), tmp_path / "output")
    assert diff(undisturbed / "trace.jsonl", two / "trace.jsonl", ("samples",)) is None
    for run, mode in ((one, SLIDE), (whole, ())):
        shutil.copytree(two / "checkpoints", run / "checkpoints")
        train(shapes, run, *mode, *stage)
    assert (result(one)["processes"], result(two)["processes"]) == (1, 2)
    assert scores(one) == scores(two) != scores(whole)


def test_it_learns(tmp_path):
    """Bright pixels of a noisy image are one class, dark pixels the other."""
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind in (part, f"{part}_masks"):
            (tmp_path / kind).mkdir()
        for i in range(16):
            labels = np.kron(generator.integers(0, 2, (3, 4)), np.ones((20, 20))).astype(np.uint8)
            pixels = 60 + 120 * labels[..., None] + generator.normal(0, 40, (60, 80, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / part / f"{i}.png")
            Image.fromarray(labels).save(tmp_path / f"{part}_masks" / f"{i}.png")
    fast = "--optim.blr 0.1 --optim.layer_decay 1 --train.epochs 20 --train.micro_batch 8"
    train(tmp_path, tmp_path / "run", *fast.split(), "--data.classes", "2", "--data.names", "dark", "bright")
    assert result(tmp_path / "run")["miou"] > 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data.classes 1", "data.classes: expected at least 2 and at most 255, got 1"),
        ("--data.names a b", "data.names: expected () or 4 different names, got 2"),
        ("--data.stride 65 64", "data.stride: expected at most data.size=(64, 64)"),
        ("--data.held_out 3", "--data.held_out: no such setting; here: --data.test"),
        ("--data.test_mode slid", "nearest: slide"),
        ("--data.masks {root}/test_masks", "expected one label map for each image in"),
        ("--data.masks {root}/nothing", "no folder of images"),
        ("--decoder.blocks 0 1 2 3", "decoder.blocks: expected 4 of 2 blocks, ascending from 0"),
        ("--train.micro_batch 1", "needs micro-batches of 2 images or more, got 1"),
        ("--run.init {root}", "expected a run folder with checkpoints"),
    ],
)
def test_refusals(arguments, message, shapes, tmp_path):
    """A refusal is one line, before training begins."""
    assert message in refusal(words(shapes, tmp_path / "run", *arguments.format(root=shapes).split()))


def test_other_masks_end_a_resumed_run(undisturbed, shapes, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.copytree(shapes / "train_masks", tmp_path / "masks")
    same = [*SLIDE, "--data.masks", str(tmp_path / "masks")]
    train(shapes, tmp_path / "run", *same, "--run.stop_after", "1")
    with Image.open(tmp_path / "masks/0003.png") as mask:
        Image.new("L", mask.size).save(tmp_path / "masks/0003.png")
    line = refusal(words(shapes, tmp_path / "run", *same))
    assert "masks has changed since" in line and "(masks: now" in line, line


def test_bad_label_maps_cost_their_images_only(shapes, tmp_path):
    """One bad label map is in training, which uses another image. The other is needed only in testing."""
    folder = tmp_path / "shapes"
    shutil.copytree(shapes, folder)
    for part in ("train", "test"):
        Image.new("L", (10, 10)).save(folder / f"{part}_masks/0003.png")
    done = launched.train(words(folder, tmp_path / "run", "--data.bad_budget", "0.2"))
    (bad,) = map(json.loads, (tmp_path / "run/bad_files.jsonl").read_text().splitlines())
    assert bad["path"] == "0003.png" and "0003.png' is 10x10 pixels" in bad["reason"]
    assert "1 of 7 test images are left out, in bad_test_files.jsonl: 0003.png: the label map" in done.stdout
    assert (result(tmp_path / "run")["images"], result(tmp_path / "run")["bad_images"]) == (6, 1)


def test_test_masks_of_other_classes_are_refused_before_training(shapes, tmp_path):
    line = refusal(words(shapes, tmp_path / "run", "--data.classes", "2", "--data.names", "a", "b"))
    assert "data.test: " in line and "expected one of 2 classes (0 .. 1) or 255: set data.classes" in line
