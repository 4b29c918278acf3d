"""The `fastmim` command on a run folder: what it leaves, and one line when it cannot."""

import inspect
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastmim import checkpoint, cli
from fastmim.analysis import reconstruction
from fastmim.config import load, to_json
from fastmim.data import demo
from fastmim.data.demo import write_demo_images
from fastmim.tasks import export
from fastmim.tasks.pretrain import build


def write_run(folder: Path, images: Path, held_out: int) -> Path:
    """A run folder with the checkpoint of an untrained model."""
    config = load(Path(__file__).parents[1] / "configs/debug/tiny_cpu.py")
    data = replace(config.data, root=str(images), size=(16, 16), held_out=held_out, workers=1)
    config = replace(config, encoder=replace(config.encoder, depth=1), data=data)
    state = {"model": build(config).state_dict()}
    checkpoint.save(folder / "checkpoints", 1, state, {"config": to_json(config)}, keep=1)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_demo_images(str(folder), 6, (20, 20))
    return folder


@pytest.fixture
def run(tmp_path, images):
    return write_run(tmp_path / "run", images, held_out=3)


@pytest.fixture
def refusal(capsys):
    """refusal(*words): the one line that the command says when it cannot."""

    def refuse(*words):
        with pytest.raises(SystemExit) as error:
            cli.main([str(word) for word in words])
        assert error.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("fastmim: ")
        return line

    return refuse


def test_export(run):
    import timm

    cli.main(["export", str(run)])
    assert timm.create_model(f"local-dir:{run / 'encoder'}", pretrained=True).num_features == 64
    cli.main(["export", str(run), "--to", "hub-folder"])
    cli.main(["export", str(run), "--to", "detectron2", "--out", str(run / "d2")])
    assert (run / "encoder-hub-folder/model.safetensors").is_file() and (run / "d2/backbone.pth").is_file()


def test_an_export_that_is_told_to_stop_leaves_nothing(run, monkeypatch):
    layout = export.LAYOUTS["timm"]

    def write(trained, folder):
        layout.write(trained, folder)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setitem(export.LAYOUTS, "timm", replace(layout, write=write))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as error:
        cli.main(["export", str(run)])
    assert error.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) == before
    assert [path.name for path in run.iterdir()] == ["checkpoints"]


def test_a_link_in_a_run_leads_no_export_out_of_it(run, tmp_path, refusal):
    """A stranger's run can hold one to an empty folder, or to somebody's export; a link that is named is followed."""
    (tmp_path / "elsewhere").mkdir()
    for name in ("encoder", "encoder-hub-folder"):
        (run / name).symlink_to(tmp_path / "elsewhere")
    assert "but a link leads to" in refusal("export", run)
    assert "but a link leads to" in refusal("export", run, "--to", "hub-folder")
    assert not list((tmp_path / "elsewhere").iterdir())
    cli.main(["export", str(run), "--out", str(run / "encoder")])
    assert (tmp_path / "elsewhere/model.safetensors").is_file() and (run / "encoder").is_symlink()


@pytest.mark.parametrize(("words", "rows"), [([], 3), (["--count", "2"], 2), (["--images", "all"], 6)])
def test_visualize(run, images, words, rows, monkeypatch):
    seen = []

    def grid(objective, pictures, mask, pred):
        seen.append(pred)
        return original(objective, pictures, mask, pred)

    original = reconstruction.reconstruction_grid
    monkeypatch.setattr(reconstruction, "reconstruction_grid", grid)
    cli.main(["visualize", str(run), *(str(images) if word == "all" else word for word in words)])
    (pred,) = seen
    assert len(pred) == rows and not pred.requires_grad
    cell = reconstruction.CELL + reconstruction.GAP
    size = (4 * cell + reconstruction.GAP, rows * cell + reconstruction.GAP + reconstruction.HEADER)
    assert Image.open(run / "reconstruction.png").size == size


def test_visualize_says_what_to_do(tmp_path, run, images, refusal):
    assert "give some with --images FOLDER" in refusal("visualize", write_run(tmp_path / "all", images, held_out=0))
    assert "no folder of images" in refusal("visualize", run, "--images", tmp_path / "nowhere")
    assert "at least 1 image, got 0" in refusal("visualize", run, "--count", "0")


@pytest.mark.parametrize("half", ["", '{"step": 3, "lo', '{"step": 3, "loss": 0.25}'])
def test_report_on_a_run_that_is_writing(tmp_path, half):
    rows = [{"step": step, "loss": 1 / step} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + half)
    cli.main(["report", str(tmp_path)])
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_what_cannot_be_done_is_one_line(tmp_path, run, refusal, monkeypatch):
    assert "expected the metrics of a run" in refusal("report", tmp_path)
    assert "expected a run folder with checkpoints" in refusal("export", tmp_path)
    (run / "other").mkdir()
    (run / "other/precious").touch()
    assert "found 'precious' there" in refusal("export", run, "--out", run / "other")
    assert "this one has 1; this encoder can go --to timm, mmdet, detectron2, onnx" in refusal(
        "export", run, "--to", "mmseg"
    )
    monkeypatch.setattr(demo, "_PHOTOGRAPHS", (("no_such_package", "x.png"),))
    assert "pip install no_such_package" in refusal("demo-data", tmp_path / "demo")
    (weights,) = run.glob("checkpoints/step-*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "no valid checkpoint" in refusal("export", run)


def test_weights_that_do_not_fit_are_one_line(run, refusal):
    """torch's message has a line for each of them."""
    loaded = checkpoint.load(run / "checkpoints")
    wrong = {name: torch.zeros(1) for name in loaded.state["model"]}
    shutil.rmtree(run / "checkpoints")
    checkpoint.save(run / "checkpoints", 1, {"model": wrong}, loaded.meta, keep=1)
    assert "encoder.cls_token: expected (1, 1, 64) of float32 by the config, found (1,)" in refusal("export", run)


@pytest.mark.parametrize(
    ("typed", "meant"), [("exprt", "export"), ("visualise", "visualize"), ("demo", "demo-data"), ("docter", "doctor")]
)
def test_a_mistyped_command_names_the_nearest(refusal, typed, meant):
    assert refusal(typed, "x").endswith(f"nearest: {meant}")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_describes_every_option(command, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([command, "--help"])
    assert done.value.code == 0
    about = inspect.getdoc(cli.COMMANDS[command])
    for option in inspect.signature(cli.COMMANDS[command]).parameters:
        assert f"    {option}: " in about, f"{command}'s {option} is not described"
    assert about.splitlines()[0] in " ".join(capsys.readouterr().out.split())
