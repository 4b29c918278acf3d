"""Tests of command lines: messages of refusals, and exit statuses."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastmim.host.command import explain, misread, nearest, refusing
from tests.methods.tiny import ROOT


@pytest.mark.parametrize("text", ["", " ", "none", "NULL", "~", "~/x", "D:\\x", "\\\\server\\x"])
def test_what_cannot_be_meant_as_a_path(text):
    assert misread(text)


@pytest.mark.parametrize("text", ["x", ".", "nonesuch", "a~", "a: b", "/none", "./none"])
def test_what_can_be_meant_as_a_path(text):
    assert misread(text) is None


@pytest.mark.parametrize(
    ("word", "found"), [("expot", "export"), ("demo", "demo-data"), ("zzz", ""), ("x", ""), ("", "")]
)
def test_nearest_is_nothing_where_nothing_is_near(word, found):
    assert nearest(word, ["export", "demo-data", "blr"]) == (f"; nearest: {found}" if found else "")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/data/run/x"), "--out /data/run/x: permission denied"),
        (FileExistsError(errno.EEXIST, "File exists", "/data/run"), "--out /data/run: expected a folder, found a file"),
        (OSError(errno.ENOSPC, "No space left on device", "/other"), "/other: No space left on device"),
        (OSError(errno.EACCES, "Permission denied", "/data/.run-k3j4"), "--out /data/run: permission denied"),
        (ValueError("no images in /data/images"), "--images: no images in /data/images"),
        (ValueError("no images in /data/images2"), "no images in /data/images2"),
        (ValueError("--out: wrong, see /data/images"), "--out: wrong, see /data/images"),
        (ValueError("two\nlines and \x1b[31m"), "two lines and \\x1b[31m"),
        (RuntimeError("[enforce fail at alloc.cpp:1] can't allocate memory"), "there is not enough memory for this"),
    ],
    ids=range(9),
)
def test_a_refusal_names_the_argument_of_a_file(error, said):
    assert explain(error, {"--out": Path("/data/run"), "--images": Path("/data/images")}) == said


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("no"), 2, "t: no\n"),
        (MemoryError(), 2, "t: there is not enough memory for this\n"),
        (KeyboardInterrupt(), 130, "t: interrupted\n"),
    ],
)
def test_how_a_program_ends(error, code, said, capsys):
    with pytest.raises(SystemExit) as left, refusing("t"):
        raise error
    assert left.value.code == code and capsys.readouterr().err == said


def test_a_mistake_of_the_program_keeps_its_traceback():
    with pytest.raises(RuntimeError), refusing("t"):
        raise RuntimeError("shapes do not fit")


def test_a_reader_that_has_seen_enough_gets_no_traceback():
    program = "from fastmim.host.command import refusing\nwith refusing('t'):\n    print('x' * 100_000)"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 1 and done.stderr == ""
