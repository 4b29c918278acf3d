"""The slow campaign: runs the tests that `make test` leaves out, file by file, Triton's kernels in its interpreter.

`python -m tests.campaign.slow` from the repository root runs the tests marked `slow`. `--only PATTERN` takes the test
files whose path contains the pattern. Files that are recorded and not stale are left out, so the same command
continues.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import sys

from bench import record
from tests.campaign.ledger import ROOT, Ledger, digest

MODES = {"compiled": "slow and not gpu", "interpreter": "slow and triton and not gpu"}
"""Marks of the tests of each mode: the second runs with TRITON_INTERPRET=1."""
COUNTS = ("passed", "skipped", "failed", "error")
NO_TESTS = 5  # pytest's exit status


@functools.cache
def parts(test: str) -> tuple[str, ...]:
    """Returns a test file, the conftest.py files above it and the helpers in tests/ that any of them imports."""
    folders = [path for path in (ROOT / test).parents if path.is_relative_to(ROOT / "tests")]
    waiting = {test, *(f"{path.relative_to(ROOT).as_posix()}/conftest.py" for path in folders)}
    found = set()
    while waiting:
        if (name := waiting.pop()) in found or not (ROOT / name).is_file():
            continue
        found.add(name)
        imports = re.findall(r"^\s*from (tests[\w.]*) import (\([^)]*|.+)", (ROOT / name).read_text(), re.MULTILINE)
        for module, names in imports:
            folder = module.replace(".", "/")
            waiting |= {f"{folder}.py", *(f"{folder}/{word}.py" for word in re.findall(r"\w+", names))}
    return tuple(sorted(found))


def files() -> list[str]:
    """Returns the test files that may have slow tests: the file or a helper marks some, or samples a sweep."""
    marks = re.compile(r"mark\.slow\b|\bcovering\(")
    tests = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py"))
    return [
        test
        for test in tests
        if any(marks.search((ROOT / name).read_text()) for name in parts(test) if name != "tests/sweep.py")
    ]


@functools.cache
def sources(folder: str) -> str:
    """Returns a digest of the committed files of a folder, except the results of measurements."""
    return digest(record.git("ls-files", "--", folder, ":!bench/results").splitlines())


@functools.cache
def covered(test: str) -> dict[str, str]:
    """Returns digests of everything that the tests of a file depend on.

    These are the file, its helpers and the kernels. If one of these files names another folder of sources, all those
    folders count too. A change makes an earlier row stale.
    """
    text = "".join((ROOT / name).read_text() for name in parts(test))
    folders = ["kernels", "tests/golden"]
    if re.search(r"\b(fastmim|bench|configs|README)\b", text):
        folders += ["fastmim", "bench", "configs", "README.md"]
    return {name: digest([name]) for name in parts(test)} | {folder: sources(folder) for folder in folders}


def stale(row: dict) -> list[str]:
    """Returns the names of what a recorded row depends on and that has changed since."""
    found = covered(row["file"])
    return sorted(name for name in found.keys() | row["covered"].keys() if row["covered"].get(name) != found.get(name))


def newest() -> dict[str, dict]:
    """Returns the last recorded row of each file and mode."""
    return {row["case"]: row for row in record.read("slow")}


def case(test: str, mode: str) -> str:
    """Returns the case of a row."""
    return f"{test}, {mode}"


def jobs() -> list[tuple[str, str]]:
    """Returns each test file with its modes; only Triton's kernels have the interpreter's."""
    return [(test, mode) for test in files() for mode in MODES if mode == "compiled" or "/kernels/" in test]


def attempt(test: str, mode: str) -> dict:
    """Runs the slow tests of a file in its own process, and returns the row.

    Raises:
        AssertionError: a test failed; ends with pytest's report.
    """
    before, environment = covered(test), os.environ | {"TRITON_INTERPRET": "0"}
    if mode == "interpreter":
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", test, "-q", "-m", MODES[mode], "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process.stdout as pipe:
        output = pipe.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, NO_TESTS), f"{case(test, mode)}: {output[-5000:]}"
    last = output.strip().splitlines()[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", last) if word in COUNTS}
    seconds = round(usage.ru_utime + usage.ru_stime, 1)
    row = {"case": case(test, mode), "file": test, "passed": 0, "skipped": 0} | counts
    return row | {"CPU seconds": seconds, "covered": before}


def main() -> int:
    """Runs the campaign, prints and records the files that hold; returns 0 if all hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="part of the test file's path")
    ledger = Ledger(parser, "slow")
    wanted = [job for job in jobs() if ledger.arguments.only in job[0]]
    if not wanted:
        parser.error(f"--only: expected part of a test file with slow tests, got {ledger.arguments.only!r}")
    known = newest()
    todo = [job for job in wanted if (row := known.get(case(*job))) is None or stale(row)]
    print(f"{len(wanted)} runs of test files, {len(wanted) - len(todo)} of them recorded and not stale", flush=True)
    failed = ledger.run(attempt, todo, "{case:<60}{passed:>6} passed{skipped:>5} skipped{CPU seconds:>9} s")
    print(f"{len(todo) - failed} of {len(todo)} hold")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
