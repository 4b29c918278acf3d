"""Tests of the `fastmim` command on a run folder: its outputs, and one-line refusals."""

import inspect
import io
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import fastmim
from fastmim import cli
from fastmim.analysis import reconstruction
from fastmim.analysis.png_files import is_ours
from fastmim.config.config_file import load
from fastmim.config.json_form import to_json
from fastmim.data import demo
from fastmim.data.demo import write_demo_images
from fastmim.data.manifest import Manifest
from fastmim.data.split import split_images
from fastmim.export import export
from fastmim.export.saved_run import open_pretraining
from fastmim.run import checkpoint
from fastmim.tasks.pretrain import build


def write_run(folder: Path, images: Path, held_out: int) -> Path:
    """A run folder with the checkpoint of an untrained model."""
    config = load(Path(__file__).parents[1] / "configs/debug/tiny_cpu.py")
    data = replace(config.data, root=str(images), size=(16, 16), held_out=held_out, workers=1)
    config = replace(config, encoder=replace(config.encoder, depth=1), data=data)
    state = {"model": build(config).state_dict()}
    manifest = Manifest.scan(str(images))
    checkpoint.save(folder / "checkpoints", 1, state, {"config": to_json(config), "manifest": manifest.hash}, keep=1)
    manifest.save(str(folder / "manifest.json"))
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
    """Returns refusal(*words): the only line that a refused command prints."""

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
    layout = export.FORMATS["timm"]

    def write(trained, folder):
        layout.write(trained, folder)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setitem(export.FORMATS, "timm", replace(layout, write=write))
    before, files = signal.getsignal(signal.SIGTERM), sorted(run.iterdir())
    with pytest.raises(SystemExit) as error:
        cli.main(["export", str(run)])
    assert error.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) == before
    assert sorted(run.iterdir()) == files


def test_a_link_in_a_run_leads_no_export_out_of_it(run, tmp_path, refusal):
    """A stranger's run can hold a link to an empty folder or to an export. A link that the user names is followed."""
    (tmp_path / "elsewhere").mkdir()
    for name in ("encoder", "encoder-hub-folder"):
        (run / name).symlink_to(tmp_path / "elsewhere")
    assert "but a link leads to" in refusal("export", run)
    assert "but a link leads to" in refusal("export", run, "--to", "hub-folder")
    assert not list((tmp_path / "elsewhere").iterdir())
    cli.main(["export", str(run), "--out", str(run / "encoder")])
    assert (tmp_path / "elsewhere/model.safetensors").is_file() and (run / "encoder").is_symlink()


@pytest.mark.parametrize(("words", "rows"), [([], 3), (["--count", "2"], 2), (["--images", "all"], 6)])
def test_visualize(run, images, words, rows, capsys):
    cli.main(["visualize", str(run), *(str(images) if word == "all" else word for word in words)])
    picture = Image.open(run / "reconstruction.png")
    cell = reconstruction.CELL + reconstruction.GAP
    assert picture.width == 5 * cell + reconstruction.GAP
    assert 0 < picture.height - (rows * cell + reconstruction.GAP + reconstruction.HEADER) < cell  # the captions
    assert capsys.readouterr().out.endswith(f"\n{run / 'reconstruction.png'}\n")


def test_visualize_says_what_to_do(tmp_path, run, images, refusal):
    assert "give images with --images FOLDER" in refusal("visualize", write_run(tmp_path / "all", images, held_out=0))
    assert "no folder of images" in refusal("visualize", run, "--images", tmp_path / "nowhere")
    for count in (0, 10**9):
        assert f"expected 1 to 256 images, got {count}" in refusal("visualize", run, "--count", count)
    assert "ends in .png" in refusal("visualize", run, "--out", tmp_path / "weights.pth")


def test_visualize_replaces_its_own_pictures_only(tmp_path, run, refusal):
    (tmp_path / "holiday.png").write_bytes(b"\x89PNG of somebody")
    assert "expected a new file or a picture of fastmim" in refusal("visualize", run, "--out", tmp_path / "holiday.png")
    assert (tmp_path / "holiday.png").read_bytes() == b"\x89PNG of somebody"
    for _ in range(2):
        cli.main(["visualize", str(run), "--out", str(tmp_path / "new/a.png")])
    cli.main(["visualize", str(run), "--out", str(tmp_path / "holiday.png"), "--overwrite"])
    assert is_ours(tmp_path / "holiday.png")


def test_visualize_writes_through_no_link(tmp_path, run):
    (tmp_path / "precious").write_text("mine")
    (run / "reconstruction.png").symlink_to(tmp_path / "precious")
    cli.main(["visualize", str(run)])
    assert (tmp_path / "precious").read_text() == "mine" and not (run / "reconstruction.png").is_symlink()


def note(run: Path, capsys, *words) -> str:
    """Returns the lines of `fastmim visualize` before the name of the picture."""
    cli.main(["visualize", str(run), *map(str, words)])
    return capsys.readouterr().out.splitlines()[-2]


def test_visualize_says_which_images_were_trained_on(tmp_path, run, images, capsys):
    config = open_pretraining(run, "run")[0]
    trained, _, held_out = split_images(Manifest.scan(str(images)), config.data, config.train.seed)
    none, unknown = "The run was not trained on these images.", "It is not known if the run was trained on these images"
    assert note(run, capsys) == none
    rows = ", ".join(str(i + 1) for i in trained.tolist())
    assert note(run, capsys, "--images", images) == f"The run was trained on 3 of these 6 images: rows {rows}."
    # Copies under other names count as well.
    (tmp_path / "copies").mkdir()
    names = sorted(images.iterdir())
    shutil.copy(names[trained[0]], tmp_path / "copies/z.jpg")
    shutil.copy(names[held_out[0]], tmp_path / "copies/a.jpg")
    write_demo_images(str(tmp_path / "copies"), 1, (24, 24), "held_out")
    assert note(run, capsys, "--images", tmp_path / "copies").endswith("trained on 1 of these 3 images: row 3.")
    (tmp_path / "copies/z.jpg").unlink()
    assert note(run, capsys, "--images", tmp_path / "copies") == none

    manifest = Manifest.load(str(run / "manifest.json"))
    replace(manifest, root=str(tmp_path / "gone")).save(str(run / "manifest.json"))
    assert note(run, capsys, "--images", images).startswith(f"{unknown}: rows ")
    replace(manifest, sizes=[1] * 6).save(str(run / "manifest.json"))
    assert note(run, capsys, "--images", images) == f"{unknown} (manifest.json in its folder lists other images)."
    (run / "manifest.json").unlink()
    assert note(run, capsys) == f"{unknown} (manifest.json in its folder cannot be read)."


def test_images_held_out_of_a_folder_that_has_grown(tmp_path, images, capsys):
    """A grown folder has another split. Images that would be held out now may have been trained on."""
    shutil.copytree(images, tmp_path / "images")
    run = write_run(tmp_path / "run", tmp_path / "images", held_out=3)
    for name in "ab":
        write_demo_images(str(tmp_path / name), 1, (24, 24), "held_out")
        (tmp_path / name / "demo_00000.jpg").rename(tmp_path / f"images/{name}.jpg")
    said = note(run, capsys, "--count", 3)
    trained, _, _ = split_images(Manifest.scan(str(images)), open_pretraining(run, "run")[0].data, 0)
    _, manifest, now = split_images(Manifest.scan(str(tmp_path / "images")), open_pretraining(run, "run")[0].data, 0)
    old = sorted(path.name for path in images.iterdir())
    known = {old[i] for i in trained.tolist()}
    rows = [str(row) for row, i in enumerate(now.tolist(), 1) if manifest.paths[i] in known]
    assert rows and said.endswith(f"{len(rows)} of these 3 images: row{'s' * (len(rows) > 1)} {', '.join(rows)}.")


ODD = [
    b"caf\xe9.jpg",
    "\N{SNOWMAN} \x1b[31mred.jpg",
    "two\nlines.jpg",
    "--count.jpg",
    "$x^{.jpg",
    "e\u0301 \u202egpj.jpg",
]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_odd_names_stop_no_picture(tmp_path, images, encoding, monkeypatch):
    folder = tmp_path / "s\u00e9t \x1b[1m"
    folder.mkdir()
    for name, path in zip(ODD, images.iterdir(), strict=True):
        shutil.copy(path, os.fsencode(folder) + b"/" + os.fsencode(name))
    (folder / "br\u00f6ken\n.jpg").write_bytes(b"no image")
    run = write_run(folder / "r\u00fcn $^", images, held_out=3)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    cli.main(["visualize", str(run), "--images", str(folder)])
    cli.main(["report", str(run)])
    out.flush()
    said = out.buffer.getvalue().decode(encoding)
    assert "ken\\n.jpg" in said and "\x1b" not in said and len(said.splitlines()) == 4
    assert (run / "reconstruction.png").exists() and (run / "loss.png").exists()


@pytest.mark.parametrize("half", ["", '{"step": 3, "lo', '{"step": 3, "loss": 0.25}'])
def test_report_on_a_run_that_is_writing(tmp_path, half):
    rows = [{"step": step, "loss": 1 / step} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + half)
    cli.main(["report", str(tmp_path)])
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_what_cannot_be_done_is_one_line(tmp_path, run, images, refusal, monkeypatch):
    assert "expected the metrics of a run" in refusal("report", tmp_path)
    assert "expected a run folder with checkpoints" in refusal("export", tmp_path)
    (run / "other").mkdir()
    (run / "other/precious").touch()
    assert "found 'precious' there" in refusal("export", run, "--out", run / "other")
    assert "this ViT has 1; this encoder can go --to timm, mmdet, detectron2, onnx" in refusal(
        "export", run, "--to", "mmseg"
    )
    line = refusal("doctor", images, "--manifest", run / "other", "--overwrite")
    assert line.endswith("other: expected a file to replace, or none: name another place with --manifest FILE")
    monkeypatch.setattr(demo, "_PHOTOGRAPHS", (("no_such_package", "x.png"),))
    assert "pip install no_such_package" in refusal("demo-data", tmp_path / "demo")
    (weights,) = run.glob("checkpoints/step-*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "no valid checkpoint" in refusal("export", run)


def test_weights_that_do_not_fit_are_one_line(run, refusal):
    """torch's message has a line for each weight."""
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
    text = capsys.readouterr().out
    assert about.splitlines()[0] in " ".join(text.split())
    for name, parameter in inspect.signature(cli.COMMANDS[command]).parameters.items():
        assert (f"--{name.replace('_', '-')}" if parameter.kind is parameter.KEYWORD_ONLY else name.upper()) in text


def test_version_and_the_list_of_commands(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"fastmim {fastmim.__version__}\n"
    with pytest.raises(SystemExit) as done:
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert done.value.code == 0 and all(f"\n  {name} " in out for name in cli.COMMANDS)
    with pytest.raises(SystemExit) as done:
        cli.main([])
    assert done.value.code == 2


PATHS = [
    (command, name, parameter.kind is parameter.KEYWORD_ONLY)
    for command, function in cli.COMMANDS.items()
    for name, parameter in inspect.signature(function).parameters.items()
    if "Path" in str(parameter.annotation)
]


def test_a_dead_link_is_no_place_for_a_converted_run_and_sizes_have_a_limit(refusal, tmp_path):
    (tmp_path / "run").symlink_to("nowhere")
    (tmp_path / "a.pth").touch()
    words = "convert", str(tmp_path / "a.pth"), str(tmp_path / "run")
    assert "found a link that leads nowhere" in refusal(*words)
    said = "--size: expected sides of at most 4096 pixels, got 16384 16384"
    assert said in refusal(*words, "--size", "16384", "16384")


@pytest.mark.parametrize("text", ["", "  ", "None", "~/x", "C:\\x"])
@pytest.mark.parametrize(("command", "name", "option"), PATHS)
def test_a_text_that_is_no_path_is_refused_by_every_command(command, name, option, text, refusal):
    values = {key: "there" for other, key, _ in PATHS if other == command} | {name: text}
    words = [f"--{key}={values[key]}" for other, key, named in PATHS if other == command and named]
    arguments = [values[key] for other, key, named in PATHS if other == command and not named]
    line = refusal(command, *arguments, *words)
    assert line.startswith(f"fastmim: {f'--{name}' if option else name.upper()}: expected a ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("export", "RUN: missing; `fastmim export --help` describes it"),
        ("knn run", "--data: missing"),
        ("export run more", "more: one argument too many"),
        ("export run --foo 3", "--foo: no such option; there are --to, --out"),
        ("doctor run --threds 3", "--threds: no such option; nearest: --threads"),
        ("doctor -quick run", "-quick: no such option; nearest: --quick"),
        ("visualize run --count x", "--count: expected a whole number, got 'x'"),
        ("visualize run --count", "--count: expected a value, got nothing"),
        ("visualize run --count 1 --count 2", "--count: given twice"),
        ("knn run --data d --temperature nan", "--temperature: expected above 0 and below inf, got nan"),
        ("knn run --data d --crop-pct 7", "--crop-pct: expected above 0 and at most 1, got 7.0"),
        ("knn run --data d --device gpu", "--device: expected one of auto, cpu, cuda, got gpu"),
        ("export run --to timn", "got timn; nearest: timm"),
        ("doctor run --quick=yes", "--quick: expected no value, got 'yes'"),
        ("convert a b --size 3", "--size: expected 2 values"),
        ("export run \u2014out x", "\u2014out: expected two hyphens"),
        ("demo-data x --count 0", "--count: expected at least 1"),
        ("demo-data x --size 99999999", "--size: expected 1 to 4096"),
        ("doctor x --threads 99999999", "--threads: expected 0 to 1024"),
        ("doctor x", "IMAGES: no folder of images"),
        ("demo-data /dev/null", "FOLDER /dev/null: expected a folder, found a file"),
        ("zzz", "zzz: no such command of export"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(words, said, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refusal(*words.split(" "))
    assert not list(tmp_path.iterdir())
