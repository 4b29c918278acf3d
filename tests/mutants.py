"""Seeds one mistake at a time in a copy of the tree, where the test that the mistake names must fail.

`python -m tests.mutants` from the repository root; `--only PATTERN` takes the mutants whose id or file contains it.
tests/mutants.json lists the mistakes. The test of a mistake in a Triton kernel runs in Triton's interpreter. A mutant
that is recorded and not stale is left out, so the same command continues. The copy and its build stay in runs/mutants.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench import record
from tests.campaign.ledger import ROOT, Ledger, digest

LIST = ROOT / "tests/mutants.json"
COPY = ROOT / "runs/mutants"
SAVED = COPY / "saved"
BUILT = ("build/cmake", "kernels/fastmim_kernels/_cpu.so", "kernels/fastmim_kernels/_reader.so")


@dataclass(frozen=True)
class Mutant:
    """One seeded mistake: `before`, which the file holds once, becomes `after`, and `test` must then fail."""

    id: str
    file: str
    before: str
    after: str
    test: str

    @property
    def interpreted(self) -> bool:
        """True if the mistake is in a Triton kernel."""
        return Path(self.file).name == "cuda.py"

    @property
    def compiled(self) -> bool:
        """True if the mistake is in C++."""
        return self.file.endswith((".cpp", ".h"))

    def covered(self) -> dict[str, str]:
        """Returns digests of the file, of the test's file and of the mistake; a change makes a verdict stale."""
        test = self.test.partition("::")[0]
        edit = hashlib.sha256(json.dumps([self.before, self.after, self.test]).encode()).hexdigest()
        return {name: digest([name]) for name in (self.file, test)} | {"the mutant": edit}


def read() -> list[Mutant]:
    """Reads the list: Python, Triton, C++."""
    mutants = [Mutant(**entry) for entry in json.loads(LIST.read_text())]
    return sorted(mutants, key=lambda mutant: (mutant.compiled, mutant.interpreted))


def newest() -> dict[str, dict]:
    """Returns the last recorded row of each mutant."""
    return {row["case"]: row for row in record.read("mutants")}


def stale(row: dict, mutant: Mutant) -> list[str]:
    """Returns what has changed since a row was recorded."""
    return [name for name, value in mutant.covered().items() if row["covered"].get(name) != value]


def update_copy() -> None:
    """Brings the copy up to date with the tracked files. What did not change keeps its time and is not rebuilt."""
    names, known = set(record.git("ls-files").splitlines()), COPY / "files.json"
    COPY.mkdir(parents=True, exist_ok=True)
    for name in set(json.loads(known.read_text()) if known.exists() else []) - names:
        (COPY / name).unlink(missing_ok=True)
    for name in sorted(names):
        content, target = (ROOT / name).read_bytes(), COPY / name
        if not (target.exists() and target.read_bytes() == content):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod((ROOT / name).stat().st_mode)
    known.write_text(json.dumps(sorted(names)))


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of a process in the copy."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (COPY, COPY / "kernels")))} | more


def build() -> str:
    """Compiles what has changed in the copy; returns the compiler's messages if that fails."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=COPY, env=environment(), capture_output=True, text=True)
    return f"does not build: {done.stdout[-1000:]}{done.stderr[-1000:]}" if done.returncode else ""


def copy_built(source: Path, target: Path) -> None:
    """Copies what the build made and has changed, with its times, so that a mistake is taken back without compiling."""
    paths = [path for name in BUILT for path in (source / name, *(source / name).rglob("*")) if path.is_file()]
    for path in paths:
        other = target / path.relative_to(source)
        if not (other.exists() and other.stat().st_mtime_ns == path.stat().st_mtime_ns):
            other.parent.mkdir(parents=True, exist_ok=True)
            other.unlink(missing_ok=True)  # a process that has the old library mapped keeps it
            shutil.copy2(path, other)


@cache
def warm(interpreted: bool) -> subprocess.Popen:
    """Starts tests/warm.py in the copy, with Triton's interpreter or without."""
    here = environment(TRITON_INTERPRET=str(int(interpreted)))
    command = [sys.executable, "-m", "tests.warm"]
    return subprocess.Popen(command, cwd=COPY, env=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def pytest(interpreted: bool, *tests: str) -> dict:
    """Runs tests of the short suite in the copy; returns what `tests.warm.run` does."""
    process = warm(interpreted)
    print(json.dumps(tests), file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """Seeds the mistake in the copy for as long as the context lasts."""
    path = COPY / mutant.file
    content, times = path.read_text(), path.stat()
    assert content.count(mutant.before) == 1, f"{mutant.id}: {mutant.file} must hold {mutant.before!r} once"
    path.write_text(content.replace(mutant.before, mutant.after))
    try:
        yield
    finally:
        path.write_text(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if mutant.compiled:
            copy_built(SAVED, COPY)


def verdict(mutant: Mutant) -> tuple[str, float]:
    """Returns "caught" if the named test fails on the mistake, else what happened in words; and the CPU seconds."""
    seconds = 0.0
    with applied(mutant):
        if mutant.compiled:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            if problem := build():
                return problem, seconds
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        done = pytest(mutant.interpreted, mutant.test)
    seconds += done["seconds"]
    if done["code"] == 1 and re.search(r"\b\d+ failed", done["output"]):
        return "caught", seconds
    return "passes" if done["code"] == 0 else f"exit code {done['code']}: {done['output'][-2000:]}", seconds


def main() -> int:
    """Runs the campaign, prints it and records what is caught in bench/results; 0 if all are."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", metavar="PATTERN", help="part of a mutant's id or file")
    ledger = Ledger(parser, "mutants")
    pattern = ledger.arguments.only
    mutants = [mutant for mutant in read() if pattern in mutant.id or pattern in mutant.file]
    if not mutants:
        parser.error(f"--only: no mutant's id or file contains {pattern!r}")
    known = newest()
    todo = [m for m in mutants if (row := known.get(m.id)) is None or stale(row, m)]
    caught = len(mutants) - len(todo)
    print(f"{len(mutants)} mutants, {caught} of them recorded as caught and not stale", flush=True)
    update_copy()
    if problem := build():
        parser.error(f"the unchanged copy {problem}")
    copy_built(COPY, SAVED)
    for interpreted in (False, True):
        if tests := sorted({mutant.test for mutant in todo if mutant.interpreted == interpreted}):
            done = pytest(interpreted, *tests)
            if done["code"]:
                parser.error(f"a test fails on the unchanged copy: {done['output'][-3000:]}")
    for mutant in todo:
        covered, (found, seconds) = mutant.covered(), verdict(mutant)
        print(f"{mutant.id}: {found} ({mutant.test}, {seconds:.1f} CPU s)", flush=True)
        if found == "caught":
            caught += 1
            row = {"case": mutant.id, "verdict": found, "file": mutant.file, "test": mutant.test}
            ledger.record(row | {"CPU seconds": round(seconds, 1), "covered": covered})
    print(f"{caught} of {len(mutants)} caught")
    return int(caught < len(mutants))


if __name__ == "__main__":
    sys.exit(main())
