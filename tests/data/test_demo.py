"""Tests of the demo's images: no network, no second writing, the same images each time."""

import hashlib
import socket

import pytest
from PIL import Image, ImageStat

from fastmim.data import demo
from fastmim.data.demo import write_demo_images
from fastmim.data.manifest import Manifest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the demo images must need no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_made_once_and_completed(tmp_path, capsys):
    folder = tmp_path / "demo"
    write_demo_images(str(folder), count=40, size=(48, 64))
    assert "40 in" in capsys.readouterr().out
    first = digests(folder)
    assert len(set(first.values())) == 40 == len(Manifest.scan(str(folder)))
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert image.size == (64, 48) and image.mode == "RGB"
    times = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    write_demo_images(str(folder), count=40, size=(48, 64))
    assert times == {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    # After an interruption, some files are missing, but no file is half written.
    (folder / "demo_00007.jpg").unlink()
    (folder / "demo_00031.jpg").unlink()
    write_demo_images(str(folder), count=40, size=(48, 64))
    assert digests(folder) == first
    assert "2 written" in capsys.readouterr().out


def test_held_out_photographs_are_not_trained_on(tmp_path, monkeypatch):
    opened, photographs, images, original = [], {}, {}, demo._open
    monkeypatch.setattr(demo, "_open", lambda *photograph: opened.append(photograph) or original(*photograph))
    for part in ("all", "train", "held_out"):
        for again in ("first", "second"):
            write_demo_images(str(tmp_path / part / again), count=4, size=(20, 24), part=part)
        photographs[part], images[part] = set(opened), digests(tmp_path / part / "first")
        assert len(set(images[part].values())) == 4 and images[part] == digests(tmp_path / part / "second")
        opened.clear()
    assert photographs["train"] | photographs["held_out"] == photographs["all"] and len(photographs["held_out"]) == 3
    assert not photographs["train"] & photographs["held_out"]


def test_colours_of_training_pictures_vary(tmp_path):
    """The photograph of bricks is grey, and its windows get different tints. Every second picture is a drawing."""
    write_demo_images(str(tmp_path), count=42, size=(32, 32), part="train")
    tints = [ImageStat.Stat(Image.open(tmp_path / f"demo_{i:05d}.jpg")).mean for i in (0, 20, 40)]
    assert all(max(tint) - min(tint) > 5 for tint in tints) and len(set(map(tuple, tints))) == 3


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match="pip install scikit-image"):
        write_demo_images(str(tmp_path), count=1)
