"""Tests that output is whole and plain, and that a failed write never ends a program."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastmim.host.terminal import steady_output

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
PROGRAM = """
from fastmim.host.terminal import steady_output
import sys
with steady_output("prog", {patience}):
    output = sys.stdout
    for i in range(3):
        print("line", i, "\\u00e9 \\udcff")
print("ended", output.error is not None, file=open({done!r}, "w"))
"""


def run(tmp_path, redirection: str, patience=1, **environment) -> tuple[str, str]:
    """Runs a program with redirected output; returns the end of the file, and standard error."""
    program, done = tmp_path / "program.py", tmp_path / "done"
    program.write_text(PROGRAM.format(patience=patience, done=str(done)))
    shell = subprocess.run(
        ["bash", "-c", f"{sys.executable} {program} {redirection}"],
        capture_output=True,
        env=ENVIRONMENT | environment,
        timeout=60,
    )
    assert b"Traceback" not in shell.stderr and b"Exception ignored" not in shell.stderr
    return done.read_text(), shell.stderr.decode(errors="replace")


@pytest.mark.parametrize(
    "redirection, said",
    [
        (">/dev/full", "prog: warning: standard output cannot be written (No space left on device)"),
        (">/dev/full 2>&1", ""),
        (">/dev/full 2>&-", ""),
        ("> >(true); sleep 0.1", None),
    ],
)
def test_output_that_cannot_be_written_is_dropped(tmp_path, redirection, said):
    done, errors = run(tmp_path, redirection)
    assert done.startswith("ended")
    if said is not None:
        assert errors.count("\n") == (said != "") and errors.startswith(said)


def test_closed_streams_are_nowhere(tmp_path):
    """Otherwise the next opened file would receive the printed text."""
    assert run(tmp_path, "<&- >&- 2>&-") == ("ended False\n", "")


@pytest.mark.parametrize("encoding", ["ascii:strict", "utf-8:strict", "latin-1:strict"])
def test_odd_characters_are_escaped_under_strict_encodings(tmp_path, encoding):
    output = tmp_path / "output"
    assert run(tmp_path, f"> {output}", PYTHONIOENCODING=encoding) == ("ended False\n", "")
    assert output.read_bytes().count(b"\\udcff\n") == 3


@pytest.mark.parametrize("redirection, status", [("| true", 0), ("> /dev/full", 1), ("> /dev/null", 0)])
def test_a_command_ends_quietly_when_nobody_reads_on_and_fails_when_its_output_is_lost(redirection, status):
    code = "import sys; from fastmim.host.terminal import steady_output\n"
    code += "@steady_output('prog')\ndef main():\n    for i in range(30_000): print(i)\nmain()"
    command = ["bash", "-c", f'"$0" -c "$1" {redirection}; exit ${{PIPESTATUS[0]}}', sys.executable, code]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=60)
    full = "prog: standard output cannot be written (No space left on device)\n"
    assert (ended.returncode, ended.stderr) == (status, full if status else "")


@pytest.mark.parametrize("module", ["fastmim.cli", "fastmim.train"])
def test_help_that_cannot_be_written_is_a_failure(module):
    command = ["bash", "-c", '"$0" -m "$1" --help > /dev/full', sys.executable, module]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=60)
    name = {"fastmim.cli": "fastmim", "fastmim.train": "train.py"}[module]
    said = f"{name}: standard output cannot be written (No space left on device)\n"
    assert (ended.returncode, ended.stderr) == (1, said)


def pipe() -> tuple[int, io.TextIOWrapper]:
    """Returns the reading end of a nearly full pipe, and a stream on the writing end."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writes, bytes(4096))
    os.set_blocking(writes, True)
    return reads, open(writes, "w")  # noqa: SIM115 - a test closes it


def test_output_that_nobody_reads_holds_nobody_up(monkeypatch):
    reads, stream = pipe()
    with os.fdopen(reads, "rb", 0) as reader, stream:
        monkeypatch.setattr(sys, "stdout", stream)
        errors = io.StringIO()
        monkeypatch.setattr(sys, "stderr", errors)
        with steady_output("prog", 0.01):
            print("lost")
            reader.read(16 * 4096)
            print("kept")
            print("too")
        assert errors.getvalue().startswith("prog: warning: standard output cannot be written (no program reads it)")
        rest = reader.read(16 * 4096)
        assert rest.strip(b"\0") == b"\n[output is missing here: it could not be written]\nkept\ntoo\n"


def test_a_line_is_written_at_once(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with steady_output("prog"):
        print("a", "b", end="")
        assert stream.getvalue() == ""
        print("c")
        assert stream.getvalue() == "a bc\n"
        print("d", end="")
    assert stream.getvalue() == "a bc\nd" and sys.stdout is stream
