"""Tests of the hostile corpus: Pillow refuses each bad file and loads each odd file."""

import os
import stat

import pytest
from PIL import Image, ImageOps

from fastmim.data.manifest import Manifest
from tests.data.hostile import spoil, write_hostile

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")


def load(path):
    """Returns the picture that training would see, decoded with Pillow alone."""
    with Image.open(path, formats=FORMATS) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode in ("I", "F"):
            raise ValueError("32-bit samples have no defined range")
        return image.convert("RGB")


def test_there_are_enough(hostile):
    _, entries = hostile
    bad = [entry for entry in entries.values() if entry.bad]
    assert len(bad) >= 80 and len(entries) - len(bad) >= 35
    assert len({(entry.name.rpartition(".")[2], entry.cause) for entry in bad}) == len(bad), "two have the same cause"


def test_it_is_small_and_always_the_same(tmp_path):
    folders = tmp_path / "a", tmp_path / "b"
    entries = [write_hostile(folder) for folder in folders]
    assert entries[0] == entries[1]
    contents = [{path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} for folder in folders]
    assert contents[0] == contents[1]
    assert sum(map(len, contents[0].values())) < 1 << 20


def test_pillow_refuses_the_bad_and_loads_the_odd(hostile):
    folder, entries = hostile
    wrong = []
    for entry in entries.values():
        try:
            load(folder / entry.name)
        except Exception:  # any error, because this test must not trust the loader's own list of errors
            loads = False
        else:
            loads = True
        if loads == (entry.bad and not entry.late):
            wrong.append(entry)
    assert not wrong


def test_spoiled_files_are_what_they_say(hostile):
    folder, entries = hostile
    late = {entry.name: entry for entry in entries.values() if entry.late}
    spoil(folder)
    kinds = {}
    for name in late:
        path = folder / name
        kinds[name] = stat.S_IFMT(path.lstat().st_mode) if os.path.lexists(path) else None
    assert kinds == {
        "late-deleted.jpg": None,
        "late-emptied.jpg": stat.S_IFREG,
        "late-folder.jpg": stat.S_IFDIR,
        "late-pipe.jpg": stat.S_IFIFO,
        "late-link.jpg": stat.S_IFLNK,
    }


def test_the_manifest_lists_all_but_what_is_no_file(hostile):
    folder, entries = hostile
    assert sorted(Manifest.scan(str(folder)).paths) == sorted(entries)
