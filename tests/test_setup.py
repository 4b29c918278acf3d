"""Tests of the Makefile and its set-up scripts: `make help`, and one sentence for each missing tool."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
LOG = Path("build/setup.log")
# Settings of a `make` around these tests must not reach the `make` under test.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("V", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
GOOD_PYTHON = 'if [ "$1" = -V ]; then echo Python 3.11.0; fi'
OLD_PYTHON = 'if [ "$1" = -V ]; then echo Python 3.8.18; else case "$2" in *version_info*) exit 1; esac; fi'
NO_VENV = GOOD_PYTHON + '\ncase "$2" in *venv*) exit 1; esac'


@pytest.fixture
def machine(tmp_path):
    """Returns a function that runs a command in an empty folder, with only the given programs.

    A program is a name and a shell text.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "dirname", "awk", "tail", "grep", "sed", "wc", "mkdir", "make", "find", "touch", "tee"):
        (programs / name).symlink_to(shutil.which(name))
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")

    def run(*command: str, **fakes: str) -> subprocess.CompletedProcess:
        for name, text in {"df": "echo 0 0 0 9000000", "c++": "cat >/dev/null"}.items():
            fakes.setdefault(name, f"PATH=/usr/bin:/bin; {text}")
        for name, text in fakes.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        environment = {"PATH": str(programs), "TMPDIR": str(tmp_path)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    return run


def test_help_lists_every_target():
    """`make help` lists exactly the targets that a person calls, in the order of the Makefile."""
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout
    listed = re.findall(r"^make (\S+) +\S", shown, flags=re.M)
    phony = re.search(r"^\.PHONY: (.+)", MAKEFILE, flags=re.M)[1].split()
    parts = re.search(r"^CAMPAIGN := (.+)", MAKEFILE, flags=re.M)[1].split()
    targets = [target for target in phony if "$" not in target and "%" not in target]
    assert sorted(listed) == sorted([*targets, *(f"campaign-{part}" for part in parts)])


def test_commands_are_shown_on_demand():
    for arguments, shown in (((), False), (("V=1",), True)):
        command = ["make", "--no-print-directory", "help", *arguments]
        output = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
        assert output.startswith("awk") == shown


def test_every_part_of_the_campaign_is_a_module():
    modules = re.findall(r"^\tpython -m (tests\.\S+)", MAKEFILE, flags=re.M)
    assert len(modules) == 6
    order = subprocess.run(
        ["make", "-n", "campaign"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"^python -m (tests\.\S+)", order, flags=re.M) == modules


@pytest.mark.parametrize(
    ("fakes", "sentence"),
    [
        ({}, "Python 3.10 or newer is needed, and python3 does not run: pass PYTHON=path."),
        (
            {"python3": OLD_PYTHON},
            "Python 3.10 or newer is needed, and python3 is Python 3.8.18: pass PYTHON=path of a newer one.",
        ),
        (
            {"python3": NO_VENV},
            "The venv module or pip is missing from Python 3.11.0 (on Debian and Ubuntu: install python3-venv).",
        ),
        (
            {"python3": GOOD_PYTHON, "df": "echo 0 0 0 2900000"},
            "8 GB of disk are needed for an environment, and . has 2: pass VENV=path on another disk.",
        ),
        (
            {"python3": GOOD_PYTHON, "c++": "exit 1"},
            "A C++20 compiler is needed, and c++ does not compile C++20: pass CXX=path of g++ 10, clang 12 or newer.",
        ),
    ],
)
def test_what_is_missing(machine, fakes, sentence):
    done = machine(".ci/needs", "python3", "./environment", **fakes)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence + "\n")


def test_no_compiler_at_all(machine, tmp_path):
    done = machine("sh", "-c", "rm bin/c++; exec .ci/needs python3 .", python3=GOOD_PYTHON, rm='exec /bin/rm "$@"')
    assert done.stderr == "A C++20 compiler is needed, and there is none: install g++ 10, clang 12 or newer.\n"


def test_nothing_is_missing(machine):
    done = machine(".ci/needs", "python3", "environment", python3=GOOD_PYTHON)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


OFFLINE = """WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /simple/torch/
ERROR: No matching distribution found for torch"""


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (OFFLINE, "no network, or the package index does not answer"),
        ("ERROR: No matching distribution found for torch>=9", "pip finds no torch>=9 for this Python and machine"),
        ("OSError: [Errno 28] No space left on device", r"the disk is full \(.+\)"),
        ("/bin/python3: No module named pip", r"pip or the venv module of Python is missing \(.+python3-venv\)"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "memory ran out"),
        ("1 error_file.cpp\na.cpp:1:2: error: a\nb.cpp:1:2: error: b\nCalledProcessError: c", "a.cpp:1:2: error: a"),
        ("Traceback\nValueError: a", "ValueError: a"),
        ("", "exit status 3"),
    ],
)
def test_a_failing_step(machine, tmp_path, output, reason):
    """One line names the step, another the reason; output of earlier steps is no reason."""
    machine(".ci/quietly", "first, a second", "step", step="echo No space left on device; exit 3")
    done = machine(".ci/quietly", "working, a minute", "step", step=f'echo "{output}" >&2; exit 3')
    assert (done.returncode, done.stdout) == (3, "working, a minute\n")
    assert re.fullmatch(rf"Failed: working: {reason}\. The log is build/setup\.log\.\n", done.stderr)
    assert output in (tmp_path / LOG).read_text()


def test_a_step_that_succeeds_says_one_line(machine, tmp_path):
    done = machine(".ci/quietly", "working", "step", "an", "argument", step='echo "chatter of $*"; echo WARNING >&2')
    assert (done.returncode, done.stdout, done.stderr) == (0, "working\n", "")
    assert (tmp_path / LOG).read_text() == "\n$ step an argument\nchatter of an argument\nWARNING\n"


@pytest.mark.parametrize("status", [0, 2])
def test_training_is_shown_without_the_launcher(machine, tmp_path, status):
    launcher = "[2026-01-02 03:04:05,678] [INFO] [runner.py:618:main] cmd = python"
    text = f"echo '{launcher}'; echo 20/400 loss 0.5; echo a mistake >&2; exit {status}"
    done = machine(".ci/quietly", "--live", "training", "deepspeed", deepspeed=text)
    assert (done.returncode, done.stdout) == (status, "training\n20/400 loss 0.5\na mistake\n")
    assert done.stderr == f"Failed: training: exit status {status}. The log is {LOG}.\n" * bool(status)
    assert launcher in (tmp_path / LOG).read_text()


def test_training_is_shown_while_it_runs(tmp_path):
    """The command ends only after its first line was seen."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    waits = "echo first; while [ ! -e seen ]; do sleep 0.05; done"
    command = [".ci/quietly", "--live", "training", "sh", "-c", waits]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["training\n", "first\n"]
        (tmp_path / "seen").touch()
    assert process.returncode == 0


def test_make_stops_at_what_is_missing(machine, tmp_path):
    """In an empty folder, the recipe of the environment refuses an old Python, and nothing follows."""
    for name in ("Makefile", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "kernels").mkdir()
    done = machine("make", "test", python3=OLD_PYTHON)
    assert done.returncode == 2 and done.stdout == "" and "python3 is Python 3.8.18" in done.stderr.splitlines()[0]
    assert not (tmp_path / ".venv").exists()


def test_make_says_what_it_does(machine, tmp_path):
    """Runs every step of the set-up with programs that do nothing, then again with nothing left to do."""
    for name in ("Makefile", "setup.py", "pyproject.toml", "CMakeLists.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "kernels").mkdir()
    venv = f"""{GOOD_PYTHON}
    if [ "$2" = venv ]; then
        mkdir -p "$3/bin"
        for name in python ruff pyright pip; do echo '#!/bin/sh' >"$3/bin/$name"; done
        PATH=/usr/bin:/bin chmod +x "$3"/bin/*
    fi"""
    lines = machine("make", "lint", python3=venv).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "making",
        *["installing"] * 2,
        "compiling",
        "installing",
        "linting",
        "checking",
    ]
    assert machine("make", "lint").stdout == "linting\nchecking types\n"
    os.utime(tmp_path / "setup.py")
    assert len(machine("make", "lint").stdout.splitlines()) == 6
