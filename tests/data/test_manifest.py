"""The manifest: what counts as an image, in what order, and what is refused."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from fastmim.data import manifest
from fastmim.data.manifest import Manifest


def test_flat_folder(make_folder):
    root = make_folder(["b.PNG", "a.jpg", "C.jpeg", ".hidden.png"])
    (root / "notes.txt").write_text("x")
    m = Manifest.scan(str(root))
    assert m.paths == ["C.jpeg", "a.jpg", "b.PNG"] and m.labels is None
    assert m.sizes == [os.path.getsize(m.path(i)) for i in range(len(m))]


@pytest.mark.parametrize("extension", sorted(manifest.EXTENSIONS))
def test_every_extension_counts(make_folder, extension):
    assert Manifest.scan(str(make_folder([f"x.{extension}"]))).paths == [f"x.{extension}"]


def test_class_folders_give_labels(make_folder):
    m = Manifest.scan(str(make_folder(["dog/1.png", "cat/2.png", "dog/0.png"])))
    assert list(zip(m.paths, m.labels, strict=True)) == [("cat/2.png", 0), ("dog/0.png", 1), ("dog/1.png", 1)]


def test_nested_folders_have_no_labels(make_folder):
    m = Manifest.scan(str(make_folder(["a/b/1.png", "a/2.png", "3.png", ".cache/4.png"])))
    assert m.paths == ["3.png", "a/2.png", "a/b/1.png"] and m.labels is None


def test_order_is_that_of_the_bytes(make_folder):
    names = ["é.png", "Z.png", "a-b.png", "a/1.png", "a.png", "\U0001f600.png", "ｚ.png"]
    assert Manifest.scan(str(make_folder(names))).paths == sorted(names, key=lambda n: n.encode())


def test_hostile_names(make_folder, tmp_path):
    names = ["with space.png", "new\nline.png", "tab\t3.png", "-rf.png", "日本.png", os.fsdecode(b"\xff\xfe.png")]
    m = Manifest.scan(str(make_folder(names)))
    assert sorted(m.paths) == sorted(names)
    for i in range(len(m)):
        Image.open(m.path(i)).close()
    m.save(str(tmp_path / "m.json"))
    assert Manifest.load(str(tmp_path / "m.json")) == m


def test_links_are_followed_and_loops_end(make_folder, tmp_path):
    root = make_folder(["a/1.png", "z/2.png"])
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "a" / "up").symlink_to(root / "z", target_is_directory=True)
    (root / "b").symlink_to(root / "z", target_is_directory=True)
    outside = tmp_path / "outside"
    shutil.copytree(root / "a", outside, symlinks=True)
    (root / "c").symlink_to(outside, target_is_directory=True)
    (root / "file.png").symlink_to(root / "a" / "1.png")
    assert Manifest.scan(str(root)).paths == ["a/1.png", "c/1.png", "file.png", "z/2.png"]


def test_links_that_lead_nowhere_are_listed_as_empty(make_folder):
    root = make_folder(["1.png"])
    (root / "gone.png").symlink_to(root / "nowhere")
    (root / "itself.png").symlink_to("itself.png")
    (root / "folder").symlink_to("nowhere")
    m = Manifest.scan(str(root))
    assert m.paths == ["1.png", "gone.png", "itself.png"] and m.sizes[0] > 0 and m.sizes[1:] == [0, 0]


def test_pipes_and_folders_named_like_images_are_not_images(make_folder):
    root = make_folder(["1.png", "folder.jpg/2.png"])
    os.mkfifo(root / "pipe.png")
    assert Manifest.scan(str(root)).paths == ["1.png", "folder.jpg/2.png"]


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Manifest.scan(str(tmp_path / "nowhere"))
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.csv").write_text("")
    with pytest.raises(ValueError, match=r"bmp, gif, jpeg.*2 other files"):
        Manifest.scan(str(tmp_path))


def test_too_many(make_folder, monkeypatch):
    monkeypatch.setattr(manifest, "MAX_IMAGES", 1)
    with pytest.raises(ValueError, match="2 images"):
        Manifest.scan(str(make_folder(["1.png", "2.png"])))


def test_hash_is_of_paths_and_sizes(make_folder, tmp_path):
    root = make_folder(["a/1.png", "2.png"])
    before = Manifest.scan(str(root)).hash
    moved = tmp_path / "moved"
    root.rename(moved)
    assert Manifest.scan(str(moved)).hash == before
    with open(moved / "2.png", "ab") as file:
        file.write(b"x")
    assert (longer := Manifest.scan(str(moved)).hash) != before
    (moved / "2.png").rename(moved / "3.png")
    assert Manifest.scan(str(moved)).hash not in (before, longer)


def test_save_and_load(make_folder, tmp_path):
    m = Manifest.scan(str(make_folder(["dog/1.png", "cat/2.png"])))
    path = tmp_path / "m.json"
    m.save(str(path))
    assert Manifest.load(str(path)) == m
    content = json.loads(path.read_text())
    content["sizes"][0] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="damaged"):
        Manifest.load(str(path))


def test_checksums_are_kept_but_are_not_what_indices_mean(make_folder, tmp_path):
    plain = Manifest.scan(str(make_folder(["dog/1.png", "cat/2.png"])))
    m = replace(plain, checksums=[0, 2**64 - 1])
    m.save(str(tmp_path / "m.json"))
    assert json.loads((tmp_path / "m.json").read_text())["checksums"] == ["0" * 16, "f" * 16]
    assert Manifest.load(str(tmp_path / "m.json")) == Manifest.scan(str(tmp_path / "m.json")) == m
    assert m.hash == plain.hash


def test_difference(make_folder):
    plain = Manifest.scan(str(make_folder(["1.png"])))
    size, m = plain.sizes[0], replace(plain, checksums=[0xAB])
    assert plain.difference(0, size, None) is None and m.difference(0, size, 0xAB) is None
    assert plain.difference(0, size - 1, None) == f"changed since it was listed: {size} bytes then, {size - 1} now"
    assert "checksum 00000000000000ab then, 00000000000000ac now" in m.difference(0, size, 0xAC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "\xff",
        '{"format": "other"}',
        '{"format": "fastmim-manifest-1", "root": ".", "paths": ["a.png"], "sizes": ["x"], "labels": null, "hash": ""}',
        '{"format": "fastmim-manifest-1", "root": 3, "paths": [], "sizes": [], "labels": null, "hash": ""}',
        '{"format": "fastmim-manifest-1", "root": ".", "paths": [], "sizes": [], "labels": null}',
    ],
)
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / "m.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"m\.json is not a manifest"):
        Manifest.scan(str(tmp_path / "m.json"))


@pytest.mark.parametrize("column", ["labels", "checksums"])
def test_a_short_column_is_refused(make_folder, tmp_path, column):
    m = Manifest.scan(str(make_folder(["dog/1.png", "cat/2.png"])))
    replace(m, **{column: [1]}).save(str(tmp_path / "m.json"))
    with pytest.raises(ValueError, match="damaged"):
        Manifest.load(str(tmp_path / "m.json"))


def test_a_manifest_moves_with_its_folder(make_folder, tmp_path):
    root = make_folder(["a/1.png", "2.png"])
    (root / "gone.png").symlink_to("nowhere")
    before = Manifest.scan(str(root))
    before.save(str(root / "manifest.json"))
    before.save(str(tmp_path / "outside.json"))
    root.rename(tmp_path / "moved")
    after = Manifest.scan(str(tmp_path / "moved/manifest.json"))
    assert after == replace(before, root=str(tmp_path / "moved"))
    with pytest.raises(FileNotFoundError, match=r"outside\.json lists images in .*images, but none .* is there"):
        Manifest.scan(str(tmp_path / "outside.json"))


def test_files_missing_or_changed_do_not_spoil_a_manifest(make_folder):
    root = make_folder([f"{i}.png" for i in range(3)])
    before = Manifest.scan(str(root))
    before.save(str(root / "manifest.json"))
    (root / "0.png").unlink()
    (root / "1.png").write_bytes(b"x")
    assert Manifest.scan(str(root / "manifest.json")) == before


def test_a_manifest_of_an_emptied_folder_is_refused(make_folder):
    root = make_folder(["1.png", "2.png"])
    Manifest.scan(str(root)).save(str(root / "manifest.json"))
    for name in ("1.png", "2.png"):
        (root / name).unlink()
    with pytest.raises(FileNotFoundError, match="mount or restore"):
        Manifest.scan(str(root / "manifest.json"))


def write_list(root, text, name="list.txt"):
    (root / name).write_text(text, encoding="utf-8")
    return str(root / name)


def test_list_file(make_folder, tmp_path):
    root = make_folder(["b 2.png", "sub/a.JPG", "é.png", "left out.png"])
    elsewhere = tmp_path / "elsewhere.png"
    shutil.copy(root / "é.png", elsewhere)
    lines = ["# a comment", "b 2.png", "", "./sub/a.JPG", str(root / "é.png"), str(elsewhere)]
    m = Manifest.scan(write_list(root, "\ufeff" + "\r\n".join(lines)))
    assert m.paths == sorted(["b 2.png", "sub/a.JPG", "é.png", str(elsewhere)], key=str.encode)
    assert m.labels is None and m.root == str(root)
    assert [os.path.getsize(m.path(i)) for i in range(4)] == m.sizes


def test_list_file_with_labels(make_folder):
    root = make_folder(["b 2.png", "a.jpg", "c.png"])
    m = Manifest.scan(write_list(root, "b 2.png 7\nc.png\t0\na.jpg   12  \n"))
    assert m.paths == ["a.jpg", "b 2.png", "c.png"] and m.labels == [12, 7, 0]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("1.png\n2.png\n./1.png\n", ValueError, r"line 3.*1\.png.*line 1"),
        ("1.png\n3.png\n4.png\n", FileNotFoundError, r"3\.png.*4\.png"),
        ("1.png\nnotes.txt\n", ValueError, r"line 2.*notes\.txt"),
        ("1.png cat\n", ValueError, "line 1"),
        ("1.png 0\n2.png\n", ValueError, "1 of 2 lines have a label"),
        ("# nothing\n\n", ValueError, "no images"),
    ],
)
def test_list_file_refused(make_folder, text, error, message):
    root = make_folder(["1.png", "2.png"])
    with pytest.raises(error, match=message):
        Manifest.scan(write_list(root, text))
