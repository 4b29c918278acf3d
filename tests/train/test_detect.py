"""Tests of detection: learn, stop, resume, count every test image once, refuse."""

import json
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastmim.bittrace import diff
from fastmim.data.availability import retrying_reader
from fastmim.data.coco import Annotations
from fastmim.data.image import DEFAULT_LIMITS
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import BadFilesError
from fastmim.run import checkpoint
from fastmim.tasks.detect import Detection, misfit
from tests.methods.tiny import ROOT
from tests.train import launched
from tests.train.launched import refusal, result, rows

CONFIG = ROOT / "configs/debug/shapes_detect_vit.py"
SMALL = "--encoder.depth 2 --encoder.embed-dim 32 --encoder.num-heads 2 --data.size 64 64 --rcnn.channels 16 "
SMALL += "--rcnn.box-width 32 --rcnn.mask-convs 1 --rcnn.proposals 16 --rcnn.anchor 4 --data.loader pillow "
SMALL += "--train.global_batch 8 --train.epochs 3 --optim.warmup_epochs 1 "
SMALL += "--run.init None --run.log_every 2 --run.trace True"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Makes shapes with 20 test images. Two processes get 8 and 12 of them."""
    from tests.shapes import write_shapes

    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, "train", 16, seed=1, side=64)
    write_shapes(folder, "test", 20, seed=2, side=64)
    return folder


def words(shapes: Path, run: Path, *args: str) -> list[str]:
    files = ["--data.root", str(shapes / "train"), "--data.annotations", str(shapes / "train.json")]
    files += ["--data.test", str(shapes / "test"), "--data.test_annotations", str(shapes / "test.json")]
    return [str(CONFIG), *SMALL.split(), *files, "--run.dir", str(run), *args]


def train(shapes: Path, run: Path, *args: str):
    launched.train(words(shapes, run, *args))


def train_on_two(shapes: Path, run: Path, *args: str):
    launched.train_on_two(words(shapes, run, *args), run.with_name(f"{run.name}-output"))


def scores(run: Path) -> dict:
    return {name: value for name, value in result(run).items() if "_AP" in name}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shapes):
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(shapes, run, "--run.evaluate_every", "3")
    return run


@pytest.mark.costly("processes", "pays for the undisturbed run when it comes first")
def test_a_run_leaves_what_it_promises(undisturbed):
    found = result(undisturbed)
    assert found["images"] == 20 and found["updates"] == 6 and found["hours"] > 0 and found["peak_bytes"] > 2**20
    assert len(scores(undisturbed)) == 12 and 0 <= found["bbox_AP"] <= 1 and found["segm_AP_large"] is None
    tested = [row for row in rows(undisturbed) if "test_bbox_AP" in row]
    assert [row["step"] for row in tested] == [3, 6] and tested[-1]["test_segm_AP"] == found["segm_AP"]


def test_a_run_that_was_stopped_goes_on_bit_for_bit(undisturbed, shapes, tmp_path):
    run = tmp_path / "run"
    train(shapes, run, "--run.stop_after", "2")
    assert not (run / "result.json").exists()
    shutil.copy(shapes / "train.json", tmp_path / "moved.json")
    train(shapes, run, "--data.annotations", str(tmp_path / "moved.json"))
    assert diff(undisturbed / "trace.jsonl", run / "trace.jsonl") is None
    once, again = (checkpoint.load(folder / "checkpoints").state for folder in (undisturbed, run))
    assert all(torch.equal(once[kind][n], again[kind][n]) for kind in once for n in once[kind])
    assert scores(run) == scores(undisturbed)


@pytest.mark.costly("model", "a detector must find something before its score tells anything")
@pytest.mark.parametrize(("epochs", "least"), [("20", 0.0), pytest.param("60", 0.03, marks=pytest.mark.slow)])
def test_processes_do_not_count(shapes, tmp_path, epochs, least):
    """The detector finds objects. Two processes with the same weights find the same objects."""
    fast = [
        "--optim.blr",
        "0.01",
        "--optim.layer_decay",
        "1",
        "--data.crop.scale",
        "1",
        "1",
        "--train.precision",
        "fp32",
    ]
    fast += ["--train.epochs", epochs]
    train(shapes, tmp_path / "one", *fast)
    assert result(tmp_path / "one")["bbox_AP50"] > least
    shutil.copytree(tmp_path / "one/checkpoints", tmp_path / "two/checkpoints")
    train_on_two(shapes, tmp_path / "two", *fast)
    assert [result(tmp_path / name)["processes"] for name in ("one", "two")] == [1, 2]
    assert scores(tmp_path / "one") == scores(tmp_path / "two")


@pytest.mark.costly("processes", "two ranks")
def test_two_processes_train_on_the_same_samples(undisturbed, shapes, tmp_path):
    train_on_two(shapes, tmp_path / "two", "--train.zero_stage", "2")
    assert diff(undisturbed / "trace.jsonl", tmp_path / "two/trace.jsonl", ("samples",)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data.annotations {root}/none.json", "none.json"),
        ("--data.annotations {root}/train/0000.png", "expected COCO's format"),
        ("--data.test {root}/train", "names 4 of 20 images that are not in"),
        ("--data.test_annotations {root}/other.json", "have different categories"),
        ("--rcnn.norm batch", "expected one of layer, none"),
        ("--data.size 60 64", "must be a multiple of 8"),
        ("--run.init {root}", "expected a run folder with checkpoints"),
    ],
)
def test_refusals(arguments, message, shapes, tmp_path):
    """A refusal is one line, before training begins."""
    content = json.loads((shapes / "test.json").read_text())
    content["categories"][0]["name"] = "square"
    (shapes / "other.json").write_text(json.dumps(content))
    assert message in refusal(words(shapes, tmp_path / "run", *arguments.format(root=shapes).split()))


def test_targets_are_made_ahead(shapes, tmp_path, monkeypatch):
    """Threads make the targets of every sample, while the caller's thread computes."""
    made, original = [], Annotations.target

    def target(self, *arguments):
        made.append(threading.current_thread() is threading.main_thread())
        return original(self, *arguments)

    monkeypatch.setattr(Annotations, "target", target)
    train(shapes, tmp_path / "run", "--run.stop_after", "2")
    assert made == [False] * 16


def test_other_boxes_end_a_resumed_run(undisturbed, shapes, tmp_path):
    """Images and objects are the same, but boxes differ."""
    shutil.copytree(undisturbed, tmp_path / "run")
    content = json.loads((shapes / "train.json").read_text())
    content["annotations"][0]["bbox"][2] -= 1
    (tmp_path / "a.json").write_text(json.dumps(content))
    line = refusal(words(shapes, tmp_path / "run", "--data.annotations", str(tmp_path / "a.json")))
    assert "a.json has changed since" in line and "(annotations: now" in line, line


def test_images_of_another_size_than_their_annotations_are_bad_files(shapes, tmp_path):
    """In training, another image replaces such an image. In testing, the image and its objects are left out."""
    files = []
    for part in ("train", "test"):
        content = json.loads((shapes / f"{part}.json").read_text())
        content["annotations"] = [a for a in content["annotations"] if isinstance(a["segmentation"], list)]
        shown = {a["image_id"] for a in content["annotations"]}
        content["images"] = [i for i in content["images"] if i["id"] in shown]
        content["images"][0]["height"] += 1
        files += [f"--data.{'test_' * (part == 'test')}annotations", str(tmp_path / f"{part}.json")]
        (tmp_path / f"{part}.json").write_text(json.dumps(content))
    command = words(shapes, tmp_path / "run", *files, "--data.bad_budget", "0.2")
    launched.train([*command, "--run.stop_after", "2"])
    done = launched.train(command)
    assert "good now" not in done.stdout
    (bad,) = map(json.loads, (tmp_path / "run/bad_files.jsonl").read_text().splitlines())
    assert re.search("pixels as seen, .* correct one of them", bad["reason"])
    assert re.search("1 of .* test images are left out, .* correct one of them", done.stdout), done.stdout
    assert result(tmp_path / "run")["bad_images"] == 1


def test_a_size_that_is_not_the_images_costs_nothing(shapes, tmp_path, monkeypatch):
    """Thousands of masks of a large image are made only after the image's own size is known."""
    content = json.loads((shapes / "train.json").read_text())
    image = content["images"][0] | {"height": 13_000, "width": 13_000}
    triangle = {"image_id": image["id"], "bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 9, 0, 9, 9]]}
    content["annotations"] = [triangle | {"category_id": content["categories"][0]["id"]}] * 1000
    (tmp_path / "a.json").write_text(json.dumps(content | {"images": [image]}))
    annotations = Annotations(str(tmp_path / "a.json"))
    manifest = annotations.within(Manifest.scan(str(shapes / "train")), with_objects=True)
    task = object.__new__(Detection)
    task.manifest, task.annotations, task.reader = manifest, annotations, retrying_reader(manifest, DEFAULT_LIMITS)
    task.config = SimpleNamespace(data=SimpleNamespace(decode_memory=500, decode_seconds=2.0))
    with pytest.raises(BadFilesError, match="56 x 56 pixels as seen, 13000 x 13000 in"):
        task.target(0, torch.tensor(0))


@pytest.mark.parametrize(("side", "count"), [(56, 2001), (13_000, 12)])
def test_objects_of_too_many_masks_make_a_bad_image(shapes, tmp_path, side, count):
    content = json.loads((shapes / "train.json").read_text())
    image = content["images"][0] | {"height": side, "width": side}
    triangle = {"image_id": image["id"], "bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 9, 0, 9, 9]]}
    content["annotations"] = [triangle | {"category_id": content["categories"][0]["id"]}] * count
    (tmp_path / "a.json").write_text(json.dumps(content | {"images": [image]}))
    words = f"^{count} objects in {side} x {side} pixels: expected at most 2000 objects, and 2000000000 pixels"
    assert re.match(words, misfit(Annotations(str(tmp_path / "a.json")), image["file_name"], (side, side)))
