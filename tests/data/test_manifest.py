"""Tests of the manifest: files that count as images, their order, and refusals."""

import json
import os
import shutil
import tracemalloc
from dataclasses import replace

import pytest
from PIL import Image

from fastmim.data import manifest, scan
from fastmim.data.manifest import Manifest


def test_flat_folder(make_folder):
    root = make_folder(["b.PNG", "a.jpg", "C.jpeg", ".hidden.png"])
    (root / "notes.txt").write_text("x")
    m = Manifest.scan(str(root))
    assert m.paths == ["C.jpeg", "a.jpg", "b.PNG"] and m.labels is None
    assert m.sizes == [os.path.getsize(m.path(i)) for i in range(len(m))]


@pytest.mark.parametrize("extension", sorted(scan.EXTENSIONS))
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
    lines = []
    assert Manifest.scan(str(root), say=lines.append).paths == ["a/1.png", "c/1.png", "file.png", "z/2.png"]
    (line,) = lines
    assert line.startswith(f"c is a link out of the folder, to {outside}"), line


def test_a_long_listing_says_how_far_it_is(make_folder, monkeypatch):
    root, lines = make_folder(["a/1.png"]), []
    monkeypatch.setattr(scan, "_LONG", -1)
    Manifest.scan(str(root), say=lines.append)
    assert lines[-1] == "still listing: 0 images in 1 folders so far, now in a/"


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
    with pytest.raises(ValueError, match=r"bmp, gif, jfif.*2 other files \(1 \.csv, 1 \.txt\)"):
        Manifest.scan(str(tmp_path))
    with pytest.raises(ValueError, match="got an empty path"):
        Manifest.scan("")
    for odd in ("zero\0byte", "x" * 5000, str(tmp_path / "a.txt/b")):
        with pytest.raises(OSError, match=r"no folder of images|cannot be examined: File name too long"):
            Manifest.scan(odd)


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
        '{"format": "fastmim-manifest-1", "format": "fastmim-manifest-1"}',
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
        ("3.png\n4.png\n", FileNotFoundError, r"none of the 2 files.*3\.png on line 1; expected the path"),
        ("4.png cat\n", FileNotFoundError, r"none of the 1 files.*4\.png cat on line 1; expected the path"),
        ("1.png cat\n", ValueError, "line 1: expected a label that is a whole number from 0 to 999999, got cat"),
        ("1.png 0\n2.png cat\n", ValueError, "line 2: expected a label that is a whole number from 0 .*, got cat"),
        ("1.png 1000000\n", ValueError, "line 1: expected a label .*, got 1000000"),
        ("1.png 0\n2.png\n", ValueError, "1 of 2 lines have a label, line 2 has none"),
        ("1.png 0\n./1.png 1\n", ValueError, r"line 2: 1\.png has label 1, but 0 on line 1"),
        ("# nothing\n\n", ValueError, "no images"),
        ("x" * 40000, ValueError, "line 1 has more than"),
        ("folder\n", FileNotFoundError, "none of the 1 files"),
    ],
)
def test_list_file_refused(make_folder, text, error, message):
    root = make_folder(["1.png", "2.png", "folder/3.png"])
    with pytest.raises(error, match=message):
        Manifest.scan(write_list(root, text))


def test_dead_lines_of_a_list_are_bad_files_like_dead_links(make_folder):
    root = make_folder(["1.png", "folder/2.png"])
    lines = ["1.png", "gone.png", "folder", "zero\0byte.png", "1.png cat", "notes", "long" * 2000 + ".png"]
    m = Manifest.scan(write_list(root, "\n".join(lines)))
    assert len(m) == 7 and sum(size > 0 for size in m.sizes) == 1 and "zero\\x00byte.png" in m.paths
    assert "6 missing, empty or unreadable, such as 1.png cat" in m.remarks()
    m.save(str(root / "m.json"))
    assert Manifest.load(str(root / "m.json")) == m


def test_labels_stand_behind_names_without_an_extension_too(make_folder):
    root = make_folder(["a.png", "b.png", "c.png"])
    for name in ("a", "b", "c 5"):
        (root / f"{name[0]}.png").rename(root / name)
    assert Manifest.scan(write_list(root, "a 3\nb 4\n")).labels == [3, 4]
    m = Manifest.scan(write_list(root, "a\nc 5\n"))
    assert m.paths == ["a", "c 5"] and m.labels is None


def test_repeated_lines_count_once_and_are_said(make_folder):
    m = Manifest.scan(write_list(make_folder(["1.png", "2.png"]), "1.png\n2.png\n./1.png\n"))
    assert m.paths == ["1.png", "2.png"] and m.remarks() == ["1 file left out: 1 named twice"]


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"], ids=lambda name: name.replace("-", "_")
)
def test_lists_as_windows_writes_them(make_folder, encoding):
    root = make_folder(["train/é.png", "train/n/2.png", "back\\slash.png"])
    lines = ["train\\é.png", "train\\n\\2.png", "back\\slash.png"]
    (root / "list.txt").write_bytes("\r\n".join(lines).encode(encoding))
    m = Manifest.scan(str(root / "list.txt"))
    assert m.paths == ["back\\slash.png", "train/n/2.png", "train/é.png"] and all(m.sizes)


def test_a_file_that_is_no_list_is_named_for_what_it_is(make_folder, tmp_path):
    root = make_folder(["1.png", "2.jpg", "3.bmp"])
    for name in ("1.png", "2.jpg", "3.bmp"):
        with pytest.raises(ValueError, match="is a single image.*give its folder"):
            Manifest.scan(str(root / name))
    for kind in ("tar", "gztar", "xztar", "bztar", "zip"):
        with pytest.raises(ValueError, match="is an archive.*unpack it"):
            Manifest.scan(shutil.make_archive(str(tmp_path / kind), kind, root))
    for content in (bytes(range(256)) * 9, bytes(5000), b"\x1b[31m\0" * 99):
        (tmp_path / "\x1b[31mx").write_bytes(content)
        with pytest.raises((ValueError, OSError)) as error:
            Manifest.scan(str(tmp_path / "\x1b[31mx"))
        assert str(error.value).isprintable()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="expected a file, found a named pipe"):
        Manifest.scan(str(tmp_path / "pipe"))


# Files that are left out, and files that cannot be read


def test_images_under_any_name_are_listed_and_what_is_left_out_is_counted(make_folder):
    root = make_folder(["a.jpg", "b.png", "c.gif", "d.webp", "e.bmp", "f.tif", "g.avif", "h.jpeg", "i.jpg"])
    for name in ("a.jpg", "b.png", "c.gif", "d.webp", "e.bmp", "f.tif", "g.avif"):
        (root / name).rename(root / name[0])
    (root / "h.jpeg").rename(root / "h.jpg_large")
    (root / "i.jpg").rename(root / "raw.nef")
    jp2 = b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64)
    contents = {"x.jp2": jp2, "y.JP2": jp2, "z": jp2, "n.txt": b"x", "o.dat": b"BM, a text", "RIFF": b"RIFF1234WAVE"}
    for name, content in (contents | {"empty": b"", ".DS_Store": b"", "manifest.json": b"", "p.jpg~": b""}).items():
        (root / name).write_bytes(content)
    m = Manifest.scan(str(root))
    assert m.paths == ["a", "b", "c", "d", "e", "f", "g", "h.jpg_large"] and all(m.sizes)
    assert m.left_out == {
        **{".jp2 (JPEG 2000)": 2, "JPEG 2000": 1, "without image content": 3},
        **{".txt": 1, ".nef": 1, "hidden": 1, "backups (~)": 1},
    }
    (remark,) = m.remarks()
    assert remark.startswith("10 files left out: 3 without image content, 2 .jp2 (JPEG 2000), ")
    assert remark.endswith(", 1 for other reasons")


def test_names_of_images_are_not_opened(make_folder, monkeypatch):
    monkeypatch.setattr(scan, "open_regular", None)
    root = make_folder(["a.jpg", "b.TIF"])
    (root / "labels.json").write_text("{}")
    assert Manifest.scan(str(root)).paths == ["a.jpg", "b.TIF"]


def test_a_folder_that_cannot_be_read_is_one_bad_file(make_folder, monkeypatch):
    root = make_folder(["cat/1.png", "dog/2.png", "dog/old/3.png", "emu/4.png"])
    scandir = os.scandir

    def denied(folder):
        if folder.endswith(("dog/old/", "emu/")):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", denied)
    m = Manifest.scan(str(root))
    assert m.paths == ["cat/1.png", "dog/2.png", "dog/old/", "emu/"] and m.labels == [0, 1, 1, 2]
    assert m.sizes[2:] == [0, 0] and m.remarks() == ["2 missing, empty or unreadable, such as dog/old/"]
    m.save(str(root / "manifest.json"))
    assert Manifest.load(str(root / "manifest.json")) == m
    monkeypatch.setattr(os, "scandir", lambda folder: denied("emu/"))
    with pytest.raises(OSError, match=r"images cannot be read: Permission denied"):
        Manifest.scan(str(root))


def test_files_that_cannot_be_examined_are_listed_by_name(make_folder, monkeypatch):
    root = make_folder(["1.png", "2.png"])
    (root / "notes").write_text("x")
    monkeypatch.setattr(scan.os, "stat", deny(os.stat, ("1.png", "notes")))
    m = Manifest.scan(str(root))
    assert m.paths == ["1.png", "2.png"] and m.sizes[0] == 0 < m.sizes[1]


def deny(stat, names):
    def denied(path, **options):
        if str(path).endswith(names):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, **options)

    return denied


def test_folders_deeper_than_a_path_can_name_are_one_bad_file(make_folder):
    root = make_folder(["1.png"])
    here = os.open(root, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 240, dir_fd=here)
        below = os.open("x" * 240, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    m = Manifest.scan(str(root))
    assert len(m) == 2 and m.paths[0] == "1.png" and m.paths[1].endswith("x/") and m.sizes[1] == 0


def test_a_disk_that_fails_for_a_moment_is_asked_again(make_folder, monkeypatch):
    root, failures, scandir = make_folder(["a/1.png"]), iter([5, 116]), os.scandir

    def flaky(folder):
        if number := next(failures, None):
            raise OSError(number, "Input/output error")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", flaky)
    monkeypatch.setattr(scan.time, "sleep", lambda seconds: None)
    assert Manifest.scan(str(root)).paths == ["a/1.png"]


# Manifests that a stranger wrote


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paths": ["../1.png"]}, r"paths\[0\]: expected a path inside the folder.*\.\./1\.png"),
        ({"paths": ["a/../../1.png"]}, r"paths\[0\]"),
        ({"paths": ["a\0.png"]}, r"paths\[0\].*a\\u0000"),
        ({"paths": ["\ud800.png"]}, r"paths\[0\]"),
        ({"paths": [["a.png"]]}, r"paths\[0\].*a list"),
        ({"paths": {"a.png": 1}}, "paths: expected a list"),
        ({"paths": []}, "paths: expected a list"),
        ({"sizes": [True]}, r"sizes\[0\]"),
        ({"sizes": [-1]}, r"sizes\[0\]"),
        ({"sizes": [1e400]}, r"sizes\[0\].*Infinity"),
        ({"sizes": [10**30]}, r"sizes\[0\]"),
        ({"sizes": [1, 2]}, "sizes: expected a list of 1"),
        ({"labels": [10**9]}, r"labels\[0\]"),
        ({"labels": "0"}, "labels: expected a list of 1"),
        ({"checksums": ["-f"]}, r"checksums\[0\]"),
        ({"root": "../.."}, "root: expected"),
        ({"hash": {}}, "hash: expected text"),
        ({"hash": "\x1b[31m"}, r"damaged.*\\x1b"),
    ],
)
def test_a_hostile_manifest_is_refused_in_one_line_that_names_the_field(tmp_path, changes, message):
    data = {"format": "fastmim-manifest-1", "root": ".", "paths": ["1.png"], "sizes": [1], "labels": None, "hash": ""}
    (tmp_path / "m.json").write_text(json.dumps(data | changes))
    with pytest.raises(ValueError, match=message) as error:
        Manifest.scan(str(tmp_path / "m.json"))
    assert str(error.value).isprintable() and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 10**6, "1" * 10**5, '{"a":' * 10**5, '{"a":{' + '"b":0,' * 10**5),
        *('{"a":' + text for text in ("[[],[]," * 10**5, '["\\\\"' + ",[]" * 10**5, "1" * 10**5)),
    ],
)
def test_a_deep_or_wide_manifest_takes_little_memory(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"m\.json is not a manifest"):
            Manifest.load(str(tmp_path / "m.json"))
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text) + 2**20
    finally:
        tracemalloc.stop()


def test_a_manifest_may_list_many_names_with_brackets_and_colons(make_folder, tmp_path):
    listed = Manifest.scan(str(make_folder([f"{i}[{{:.png" for i in range(200)])))
    listed.save(str(tmp_path / "m.json"))
    assert Manifest.load(str(tmp_path / "m.json")) == listed


@pytest.mark.parametrize("beginning", [b"", b"{"])
def test_a_manifest_of_holes_is_refused_before_it_is_read(tmp_path, beginning):
    (tmp_path / "m.json").write_bytes(beginning)
    os.truncate(tmp_path / "m.json", 5 * 10**9)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"m\.json.*(JSON object|4000000000 bytes)"):
            Manifest.load(str(tmp_path / "m.json"))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_manifest_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "m.json").symlink_to("/proc/self/pagemap")
    with pytest.raises(ValueError, match=r"m\.json is not a manifest"):
        Manifest.load(str(tmp_path / "m.json"))
