"""Tests of both loaders on the hostile corpus: bad files are named once, and no other sample changes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from fastmim.data.loader import open_loader
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import Quarantine
from fastmim.samples import sample_id
from tests.data.hostile import spoil, write_hostile

pytestmark = pytest.mark.usefixtures("impatient")
SEED, BATCH = 2, 16


@pytest.fixture
def folders(tmp_path, picture):
    """Makes the corpus with as many good files, and a copy with good files for the bad ones."""
    hostile, healed = tmp_path / "hostile", tmp_path / "healed"
    entries = write_hostile(hostile)
    for i in range(len(entries)):
        Image.fromarray(picture(40 + i % 9, 60 - i % 7, seed=i)).save(hostile / f"good{i:03d}.jpg")
    shutil.copytree(hostile, healed, symlinks=True, ignore=shutil.ignore_patterns("pipe.jpg"))
    for entry in entries.values():
        if entry.bad:
            (healed / entry.name).unlink()
            Image.fromarray(picture(30, 40, seed=1000)).save(healed / entry.name, format="JPEG")
    return hostile, healed, entries


def load_all(folder, data, name, file=None, prepare=lambda folder: None):
    manifest = Manifest.scan(str(folder))
    prepare(folder)
    everything = torch.arange(len(manifest))
    ids = sample_id(everything, 3)
    quarantine = Quarantine(manifest, SEED, file)
    settings = replace(data, loader=name)
    with open_loader(manifest, settings, SEED, quarantine, everything, torch.device("cpu")) as loader:
        images = torch.cat([images for images, _ in loader.batches(ids.split(BATCH))])
        return dict(zip(manifest.paths, images, strict=True)), loader.bad_files()


@pytest.mark.parametrize("name", ["pillow", "dali"])
@pytest.mark.filterwarnings("ignore")
def test_bad_files_are_named_and_nothing_else_changes(folders, data, name, tmp_path):
    hostile, healed, entries = folders
    expected, none = load_all(healed, data(), name)
    assert not none
    images, reasons = load_all(hostile, data(), name, tmp_path / "bad_files.jsonl", prepare=spoil)
    bad = {entry.name for entry in entries.values() if entry.bad}
    assert len(bad) >= 40
    lines = [json.loads(line) for line in (tmp_path / "bad_files.jsonl").read_text().splitlines()]
    assert sorted(line["path"] for line in lines) == sorted(bad) == sorted(reasons)
    assert all(reasons.values())
    changed = {path for path in expected if not torch.equal(images[path], expected[path])}
    assert changed == bad


@pytest.mark.parametrize("name", ["pillow", "dali"])
def test_a_jpeg_that_ends_early_is_replaced_whatever_stands_at_its_end(tmp_path, data, name, picture):
    """Decoders fill the missing part with gray, without an error, so training would use such pictures."""
    for i in range(8):
        Image.fromarray(picture(40, 60, seed=i)).save(tmp_path / f"good{i}.jpg", restart_marker_blocks=5 * (i % 2))
    whole = (tmp_path / "good0.jpg").read_bytes()
    half = (whole.index(b"\xff\xda") + 14 + len(whole)) // 2
    end, rest = b"\xff\xd9", len(whole) - half - 2
    damaged = {
        "cut.jpg": whole[:half],
        "cut and ended.jpg": whole[:half] + end,
        "zeros.jpg": whole[:half] + bytes(rest + 2),
        "zeros and ended.jpg": whole[:half] + bytes(rest) + end,
        "ended in the middle.jpg": whole[:half] + end + whole[half:],
        "few blocks.jpg": whole[:-40] + end,
    }
    harmless = {
        "garbage.jpg": whole + b"garbage",
        "padded.jpg": whole + bytes(4096),
        "left over.jpg": whole[:-2] + b"\1\2" + end,
    }
    for file, content in (damaged | harmless).items():
        (tmp_path / file).write_bytes(content)
    _, bad = load_all(tmp_path, data(), name)
    assert sorted(bad) == sorted(damaged)
    assert all("JPEG" in reason for reason in bad.values())


def test_the_pixels_of_a_file_are_looked_through_once_a_run(tmp_path, data, picture, monkeypatch):
    for i in range(8):
        Image.fromarray(picture(40, 60, seed=i)).save(tmp_path / f"{i}.jpg")
    manifest, everything, asked = Manifest.scan(str(tmp_path)), torch.arange(8), []
    with open_loader(
        manifest,
        replace(data(), loader="pillow"),
        SEED,
        Quarantine(manifest, SEED, None),
        everything,
        torch.device("cpu"),
    ) as loader:
        submit = loader._reader.submit
        monkeypatch.setattr(
            loader._reader, "submit", lambda paths, pixels: asked.append(pixels) or submit(paths, pixels)
        )
        for epoch in range(3):
            loader.load(sample_id(everything[: 4 + 2 * epoch], epoch))
    assert asked == [[True] * 4, [False] * 4 + [True] * 2, [False] * 6 + [True] * 2]
