"""The mutant campaign: seeds one mistake at a time in a copy of the tree, where the named test must fail.

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
from pathlib import Path

from bench import record
from tests.campaign.ledger import ROOT, Ledger, digest

LIST = ROOT / "tests/mutants.json"
COPY = ROOT / "runs/mutants"
SAVED = COPY / "saved"
BUILT = ("build", "kernels/fastmim_kernels/_cpu.so", "kernels/fastmim_kernels/_reader.so")
TIMEOUT_SECONDS = 600


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
    """Reads the list, Python first, so that the library is whole while Python is tested."""
    mutants = [Mutant(**entry) for entry in json.loads(LIST.read_text())]
    return sorted(mutants, key=lambda mutant: mutant.compiled)


def newest() -> dict[str, dict]:
    """Returns the last recorded row of each mutant."""
    return {row["case"]: row for row in record.read("mutants")}


def stale(row: dict, mutant: Mutant) -> list[str]:
    """Returns what has changed since a row was recorded."""
    return [name for name, value in mutant.covered().items() if row["covered"].get(name) != value]


def update_copy() -> None:
    """Brings the copy up to date with the tracked files. What did not change keeps its time, so it is not rebuilt."""
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


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs a Python command in the copy."""
    here = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (COPY, COPY / "kernels")))} | environment
    return subprocess.run(
        [sys.executable, *words], cwd=COPY, env=here, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )


def build() -> subprocess.CompletedProcess:
    """Compiles what has changed in the copy."""
    return run("setup.py", "--quiet", "build_ext", "--inplace")


def pytest(interpreted: bool, *tests: str) -> subprocess.CompletedProcess:
    """Runs tests of the short suite in the copy."""
    words = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests)
    return run(*words, TRITON_INTERPRET=str(int(interpreted)))


def copy_built(source: Path, target: Path) -> None:
    """Copies what the build made, with its times: so a mistake is taken back without compiling again."""
    for name in BUILT:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.rmtree(target / name, ignore_errors=True)
            shutil.copytree(source / name, target / name)
        else:
            (target / name).unlink(missing_ok=True)
            shutil.copy2(source / name, target / name)


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
        if mutant.compiled:
            copy_built(SAVED, COPY)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def verdict(mutant: Mutant) -> str:
    """Returns "caught" if the named test fails on the mistake, else what happened, in words."""
    with applied(mutant):
        if mutant.compiled and (built := build()).returncode:
            return f"does not build: {built.stderr[-1000:]}"
        try:
            done = pytest(mutant.interpreted, mutant.test)
        except subprocess.TimeoutExpired:
            return f"hangs for {TIMEOUT_SECONDS} s"
    if done.returncode == 1 and re.search(r"\b\d+ failed", done.stdout):
        return "caught"
    return "survives" if done.returncode == 0 else f"breaks: {done.stdout[-1000:]}{done.stderr[-1000:]}"


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
    print(f"{len(mutants)} mutants, {len(mutants) - len(todo)} of them recorded as caught and not stale", flush=True)
    if todo:
        update_copy()
        if (built := build()).returncode:
            parser.error(f"the unchanged copy does not build: {built.stderr[-2000:]}")
        copy_built(COPY, SAVED)
    for interpreted in (False, True):
        if tests := sorted({m.test for m in todo if m.interpreted == interpreted}):
            done = pytest(interpreted, *tests)
            if done.returncode:
                parser.error(f"a test fails on the unchanged copy: {done.stdout[-3000:]}{done.stderr[-1000:]}")
    caught = len(mutants) - len(todo)
    for mutant in todo:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        covered, found = mutant.covered(), verdict(mutant)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)
        if found != "caught":
            print(f"{mutant.id}: SURVIVED {mutant.test} ({found})", flush=True)
            continue
        caught += 1
        print(f"{mutant.id}: caught by {mutant.test} ({seconds} CPU s)", flush=True)
        row = {"case": mutant.id, "verdict": found, "file": mutant.file, "test": mutant.test}
        ledger.record(row | {"CPU seconds": seconds, "covered": covered})
    print(f"{caught} of {len(mutants)} caught")
    return int(caught < len(mutants))


if __name__ == "__main__":
    sys.exit(main())
