"""Both loaders over the hostile corpus: every bad file is named once, no other sample changes, odd files load."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from fastmim.data.loader import open_loader
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import Quarantine
from fastmim.tokens import sample_id
from tests.data.hostile import spoil, write_hostile

pytestmark = pytest.mark.usefixtures("impatient")
SEED, BATCH = 2, 16


@pytest.fixture
def folders(tmp_path, picture):
    """The corpus among as many good files; the same with a good file for every bad one; what is in the corpus."""
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
