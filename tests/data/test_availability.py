"""Tests of data that cannot be read for a while: the loader waits, then files are bad."""

import os
import shutil

import pytest
import torch
from PIL import Image

from fastmim.data import availability, loader
from fastmim.data.availability import DataUnavailableError
from fastmim.data.labels import LabelMaps, resized_pairs
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import Quarantine


@pytest.fixture
def root(make_folder):
    return make_folder([f"{folder}/{i}.png" for folder in "ab" for i in range(6)])


@pytest.fixture
def naps(monkeypatch):
    """Replaces pauses: naps.then(number, change) calls `change()` in the pause of this number."""

    class Naps(list):
        changes = {}

        def then(self, number, change):
            self.changes[number] = change

        def sleep(self, seconds):
            self.append(seconds)
            self.changes.pop(len(self), lambda: None)()

    naps = Naps()
    monkeypatch.setattr(availability.time, "sleep", naps.sleep)
    monkeypatch.setattr(availability.time, "monotonic", lambda: float(sum(naps)))
    return naps


def open_loader(manifest, data):
    everything = torch.arange(len(manifest))
    return loader.open_loader(
        manifest, data(loader="pillow", workers=1), 3, Quarantine(manifest, 3), everything, torch.device("cpu")
    )


def load(manifest, data, before=lambda: None):
    """Loads all images in two batches, the second after `before()`; returns them and the bad files."""
    with open_loader(manifest, data) as open_:
        first = open_.load(torch.arange(6))
        before()
        return torch.cat([first, open_.load(torch.arange(6, 12))]), dict(open_.bad_files())


def test_a_folder_that_is_away_for_a_while_makes_no_file_bad(root, data, naps, capfd):
    manifest = Manifest.scan(str(root))
    clean, _ = load(manifest, data)
    naps.then(4, lambda: root.with_name("elsewhere").rename(root))
    images, bad = load(manifest, data, lambda: root.rename(root.with_name("elsewhere")))
    assert not bad and torch.equal(images, clean)
    said = capfd.readouterr().err.splitlines()
    assert [line.partition(" is ")[2] for line in said] == ["away, waiting up to 300 s", "back after 1.5 s"]


def test_a_folder_that_stays_away_is_an_error_and_makes_no_file_bad(root, data, naps, capfd):
    manifest = Manifest.scan(str(root))
    with open_loader(manifest, data) as open_:
        shutil.rmtree(root)
        for take in (open_.load, open_.load_held_out):
            with pytest.raises(DataUnavailableError, match=r"images has been away for 300 s.*mount or restore it"):
                take(torch.arange(3))
        assert not open_.bad_files()
    assert 300 < sum(naps) < 310, "the second time the error comes at once"
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_folder_of_other_files_is_away_too(root, data, naps):
    """An unmounted folder can hold other files."""
    manifest = Manifest.scan(str(root))

    def unmount():
        root.rename(root.with_name("elsewhere"))
        (root / "lost+found").mkdir(parents=True)

    def mount():
        shutil.rmtree(root)
        root.with_name("elsewhere").rename(root)

    naps.then(2, mount)
    assert not load(manifest, data, unmount)[1]


def test_a_part_that_is_away_for_a_while_makes_no_file_bad(root, data, naps, capfd):
    manifest = Manifest.scan(str(root))
    naps.then(5, lambda: (root / "elsewhere").rename(root / "b"))
    _, bad = load(manifest, data, lambda: (root / "b").rename(root / "elsewhere"))
    assert not bad and naps == [0.1, 0.4, 1.5, 3, 5]
    assert capfd.readouterr().err.endswith("images/b is away, waiting up to 30 s\n")


def test_a_part_that_stays_away_is_bad_and_waited_for_twice_at_most(root, data, naps):
    manifest = Manifest.scan(str(root))
    with open_loader(manifest, data) as open_:
        shutil.rmtree(root / "b")
        open_.load(torch.arange(12))
        assert sorted(open_.bad_files()) == [f"b/{i}.png" for i in range(6)] and sum(naps) == 60
        open_.load(torch.arange(12) + (1 << 32))
        assert sum(naps) == 60


def test_a_file_that_is_being_replaced_is_not_bad(root, data, naps):
    manifest = Manifest.scan(str(root))
    whole = (root / "b/3.png").read_bytes()
    naps.then(2, lambda: (root / "b/3.png").write_bytes(whole))
    _, bad = load(manifest, data, lambda: (root / "b/3.png").write_bytes(whole[:50]))
    assert not bad and naps == [0.1, 0.4]


def test_a_wait_in_vain_is_forgotten_when_something_comes_back(root, data, naps):
    manifest = Manifest.scan(str(root))
    with open_loader(manifest, data) as open_:
        for i in range(3):
            (root / f"a/{i}.png").unlink()
            content = (root / f"b/{i}.png").read_bytes()
            (root / f"b/{i}.png").unlink()
            naps.clear()
            naps.then(1, lambda path=root / f"b/{i}.png", content=content: path.write_bytes(content))
            open_.load(torch.tensor([i, 6 + i]))
            assert naps == [0.1, 0.4, 1.5]
        assert sorted(open_.bad_files()) == [f"a/{i}.png" for i in range(3)]


def test_what_was_not_there_when_it_was_listed_is_not_waited_for(root, data, naps):
    os.symlink("nowhere", root / "a/link.png")
    (root / "b/empty.png").touch()
    manifest = Manifest.scan(str(root))
    with open_loader(manifest, data) as open_:
        open_.load(torch.arange(14))
        assert sorted(open_.bad_files()) == ["a/link.png", "b/empty.png"]
    assert not naps


def test_label_maps_and_whole_images_are_waited_for_too(make_folder, naps):
    images = make_folder(["0.png", "1.png"])
    folder = images.with_name("masks")
    folder.mkdir()
    for name in ("0.png", "1.png"):
        Image.new("L", (16, 12), 1).save(folder / name)
    masks = LabelMaps(Manifest.scan(str(images)), str(folder), 2)
    for path in (folder, images):
        naps.clear()
        path.rename(path.with_name("elsewhere"))
        naps.then(3, lambda path=path: path.with_name("elsewhere").rename(path))
        assert len(list(resized_pairs(masks, range(2), (12, 16), "inside", "bilinear", 3, threads=1))) == 2
    shutil.rmtree(folder)
    with pytest.raises(DataUnavailableError, match="masks has been away for 300 s"):
        masks.read(0)
