"""Tests of files in strangers' folders: no waiting, nothing outside, nothing half written."""

import os
import stat
import subprocess

import pytest

from fastmim.host import files, json_files
from fastmim.host.terminal import shell_word, shown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain ünïcödé 日本.jpg", "plain ünïcödé 日本.jpg"),
        ("new\nline\ttab", "new\\nline\\ttab"),
        ("\x1b[31mred", "\\x1b[31mred"),
        (os.fsdecode(b"\xff\xe9.jpg"), "\\xff\\xe9.jpg"),
        ("right\u202eleft", "right\\u202eleft"),
        ("next\x85 \xa0soft\xad", "next\\u0085 \\u00a0soft\\u00ad"),
        ("\ud800", "\\ud800"),
        ("\x85" * 10**6 + "end", "\\u0085" * 2048 + "[995907 more]" + "\\u0085" * 2045 + "end"),
    ],
)
def test_a_shown_name_is_one_line_of_any_encoding(name, expected):
    assert shown(name) == expected
    shown(name).encode("utf-8")


@pytest.mark.parametrize(
    "name",
    [
        *("plain", "two words", "a'b\"c", "$(touch x) `touch x`; & * ~", "ü", "-n", "{a,b}", "!!"),
        *("new\nline\ttab\x1b[31m", "\\'\n$x", "right\u202eleft", "\x85\xa0\xad", os.fsdecode(b"\xff'\\\xe9")),
    ],
)
def test_a_typed_name_is_one_word_of_a_shell(name):
    """The shell runs no part of the name."""
    word = shell_word(name)
    assert word.isprintable()
    found = subprocess.run(["bash", "-c", f"printf '%s' {word}"], capture_output=True, check=True).stdout
    assert os.fsdecode(found) == name


@pytest.fixture
def kinds(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    return [tmp_path / "pipe", tmp_path / "folder", "/dev/zero"]


def test_only_regular_files_are_read(kinds, tmp_path):
    for path in kinds:
        with pytest.raises(ValueError, match="expected a file, found a"):
            files.open_regular(path)
    (tmp_path / "file").write_bytes(b"12345")
    assert files.read_bytes(tmp_path / "file", 5) == b"12345"
    with pytest.raises(ValueError, match="at most 4 bytes"):
        files.read_bytes(tmp_path / "file", 4)


def test_only_regular_files_are_written(kinds):
    for path in kinds[:2]:
        with pytest.raises(ValueError, match="expected a file, found a"):
            files.write(path, "x")
        with pytest.raises((ValueError, OSError)):
            files.open_append(path)


def test_a_link_is_replaced_and_its_target_untouched(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"):
        files.open_append(tmp_path / "link")
    files.write(tmp_path / "link", "new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "link").read_text() == "new"
    assert not (tmp_path / "link").is_symlink()


def test_outputs_stay_inside_their_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run/encoder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "alias").symlink_to("run")
    with pytest.raises(ValueError, match="a link leads to"):
        files.output(tmp_path / "run", "encoder", "model.safetensors")
    assert files.output(tmp_path / "alias", "loss.png") == tmp_path / "alias/loss.png"
    assert files.output(tmp_path / "run", "new", "x.json") == tmp_path / "run/new/x.json"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    files.write(tmp_path / "file", "old")
    with pytest.raises(RuntimeError), files.writing(tmp_path / "file", "w") as file:
        file.write("half")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing/x.json", tmp_path / "file/x.json"):
        with pytest.raises(OSError) as error:
            files.write(path, "x")
        assert str(path) in str(error.value) and ".tmp-" not in str(error.value)


def test_the_umask_decides_who_may_read_a_new_file(tmp_path, monkeypatch):
    before = os.umask(0o077)
    try:
        # Threads share the umask. A thread that set it, even for a moment, could leave it changed.
        monkeypatch.setattr(os, "umask", None)
        files.write(tmp_path / "file", "x")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_json_is_read_in_one_way(tmp_path):
    assert json_files.parse_json(b'\xef\xbb\xbf{"a": {"b": 1}}', change=len) == 1
    for text, words in (
        (b'{"a": 1, "a": 2}', "the key a twice"),
        (b"[NaN]", "found NaN"),
        (b"[\xff]", "no text at byte 1"),
        (b"[1", "line 1, column 3"),
        (b"[" * 100_000, "within each other"),
        (b"1" * 5000, "thousands of digits"),
    ):
        with pytest.raises(json_files.JSONError, match=words):
            json_files.parse_json(text)
