"""Tests of every command on strangers' run folders: a one-line refusal or success, nothing outside."""

import io
import json
import os
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

import fastmim
from fastmim import cli
from fastmim.data.demo import write_demo_images
from fastmim.export.export_format import Snippet
from fastmim.export.load import from_run
from fastmim.export.model_card import compose_card
from fastmim.export.saved_run import open_run
from fastmim.run import checkpoint
from tests import hostile_runs
from tests.test_cli import write_run

COMMANDS = ("export", "visualize", "knn", "convert")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for part in ("train", "test"):
        for name in "ab":
            (folder / part / name).mkdir(parents=True)
            write_demo_images(str(folder / part / name), 2, (20, 20))
    return folder


@pytest.fixture(scope="module")
def sound(images, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("sound") / "run", images / "train", held_out=2)


def words(command: str, run: Path, images: Path) -> list[str]:
    more = {"knn": ["--data", images, "--k", 1], "convert": [run.parent / "out.pth"], "visualize": ["--count", 1]}
    return [str(word) for word in (command, run, *more.get(command, ()))]


def call(arguments: list[str]) -> tuple[int, str]:
    """Calls the command; returns its exit status and its error message. Any exception is a failure."""
    errors = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(errors):
            cli.main(arguments)
    except SystemExit as error:
        return error.code or 0, errors.getvalue()
    return 0, ""


def is_one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.startswith("fastmim: ") and text[:-1].isprintable() and len(text) < 1500


@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.parametrize("name", hostile_runs.of_no_use())
def test_a_checkpoint_that_is_of_no_use_is_refused_in_one_line_by_every_command(name, sound, images, tmp_path):
    run = shutil.copytree(sound, tmp_path / "run")
    hostile_runs.of_no_use()[name](run)
    before = sorted(os.listdir(tmp_path))
    for command in COMMANDS:
        code, said = call(words(command, run, images))
        assert code == 2 and is_one_line(said), f"{command}: {said}"
        assert any(file in said for file in ("state.json", "manifest.json", "safetensors", "checkpoints"))
    with pytest.raises((ValueError, RuntimeError)):
        fastmim.load(run)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("name", [name for name in hostile_runs.of_no_use() if not name.startswith("checkpoints")])
def test_an_older_checkpoint_is_used_instead(name, sound, tmp_path):
    run = shutil.copytree(sound, tmp_path / "run")
    older = shutil.copytree(run / "checkpoints" / hostile_runs.STEP, run / "checkpoints/step-00000000")
    state = json.loads((older / "state.json").read_text())
    (older / "state.json").write_text(json.dumps(state | {"step": 0}))
    hostile_runs.seal(older)
    hostile_runs.of_no_use()[name](run)
    assert open_run(run, "run")[1].step == 0


@pytest.mark.parametrize("name", hostile_runs.odd())
def test_what_lies_beside_a_sound_checkpoint_changes_nothing(name, sound, tmp_path):
    run = shutil.copytree(sound, tmp_path / "run")
    hostile_runs.odd()[name](run)
    assert open_run(run, "run")[1].step == 1


def test_every_field_of_a_config_may_hold_anything(sound, tmp_path):
    """A ValueError refuses each value, or the value does no harm."""
    config = open_run(sound, "run")[1].meta["config"]
    run, refused = shutil.copytree(sound, tmp_path / "run"), 0
    state = (run / "checkpoints" / hostile_runs.STEP / "state.json").read_bytes()
    for number, path in enumerate(hostile_runs.fields(config)):
        for value in hostile_runs.VALUES[number % 9 :: 9]:
            (run / "checkpoints" / hostile_runs.STEP / "state.json").write_bytes(state)
            hostile_runs.stored(value, *hostile_runs.CONFIG, *path)(run)
            try:
                open_run(run, "run")
            except (ValueError, checkpoint.FolderError) as error:
                assert str(error).isprintable() and len(str(error)) < 1500
                refused += 1
    assert refused > 60


@pytest.fixture(scope="module")
def trained(sound):
    config, loaded = open_run(sound, "run")
    return from_run(config, loaded.state["model"]), config


@pytest.mark.parametrize("number", range(len(hostile_runs.SIDE_FILES)))
def test_damaged_files_beside_the_checkpoints_are_left_out(number, trained, tmp_path):
    """The loss curve and the model card read these files."""
    for name in ("metrics.jsonl", "facts.json", "result.json", "knn.json", "manifest.json"):
        (tmp_path / name).write_bytes(hostile_runs.SIDE_FILES[number])
    code, said = call(["report", str(tmp_path)])
    assert (code == 0 and not said) or (code == 2 and is_one_line(said)), said
    text = compose_card(*trained, tmp_path, 1, "timm", Snippet("usage.py", ""), [])
    assert "\x1b" not in text and "# Title" not in text.splitlines()


@pytest.mark.parametrize("content", ["[" * hostile_runs.DEEP, '{"part": []}', '{"part": {}}', "[]", "null", "\\"])
def test_a_curve_needs_no_config(content, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n')
    (tmp_path / "config.json").write_text(content)
    assert call(["report", str(tmp_path)]) == (0, "")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_never_waited_for(make, trained, tmp_path):
    for name in ("metrics.jsonl", "facts.json", "result.json", "knn.json", "manifest.json"):
        make(tmp_path / name)
    code, said = call(["report", str(tmp_path)])
    assert code == 2 and is_one_line(said)
    compose_card(*trained, tmp_path, 1, "timm", Snippet("usage.py", ""), [])


def test_no_command_writes_outside_through_a_link_of_a_run(sound, images, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    links = {"features": outside, "encoder": outside, "knn.json": outside / "precious"}
    links |= {name: outside / "precious" for name in ("reconstruction.png", "loss.png")}
    for name, target in links.items():
        run = shutil.copytree(sound, tmp_path / name)
        (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n')
        (run / name).symlink_to(target)
        for command in ("visualize", "knn", "report", "export"):
            if command == "export" and name != "encoder":
                continue
            code, said = call(words(command, run, images))
            assert code == 0 or (is_one_line(said) and "a link leads to" in said), f"{command}: {said}"
        shutil.rmtree(run)
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "precious"


def test_features_that_somebody_else_left_are_made_again(sound, images, tmp_path):
    run = shutil.copytree(sound, tmp_path / "run")
    assert call(words("knn", run, images))[0] == 0
    file, result = next((run / "features").iterdir()), (run / "knn.json").read_text()
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[:-1], whole.replace(b"<f4", b"|O8"), whole.replace(b"<f4", b"<f8")):
        file.write_bytes(content)
        assert call(words("knn", run, images))[0] == 0 and file.read_bytes() == whole
    file.unlink()
    os.mkfifo(file)
    code, said = call(words("knn", run, images))
    assert code == 2 and is_one_line(said) and "a named pipe" in said
    assert (run / "knn.json").read_text() == result
