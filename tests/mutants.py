"""Seeds one mistake at a time in a copy of the tree. The test that the mistake names must fail.

`python -m tests.mutants` from the repository root; `--only PATTERN` takes the mutants whose id or file contains the
pattern. tests/mutants.json lists the mistakes. The test of a mistake in a Triton kernel runs in Triton's interpreter.
Mutants that are recorded and not stale are left out, so the same command continues. The copy and its build stay in
runs/mutants.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import record
from tests.campaign.ledger import ROOT, Ledger, digest
from tests.campaign.slow import parts

LIST = ROOT / "tests/mutants.json"
COPY = ROOT / "runs/mutants"


@dataclass(frozen=True)
class Mutant:
    """One seeded mistake: `before`, which occurs once in the file, becomes `after`, and `test` must then fail."""

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
        """Returns digests of the file, the test, its helpers and the mistake; a change makes a verdict stale."""
        test = self.test.partition("::")[0]
        edit = hashlib.sha256(json.dumps([self.before, self.after, self.test]).encode()).hexdigest()
        return {name: digest([name]) for name in (self.file, *parts(test))} | {"the mutant": edit}


def read() -> list[Mutant]:
    """Reads the list. C++ comes last, so that the library is whole while other mistakes are tested."""
    mutants = [Mutant(**entry) for entry in json.loads(LIST.read_text())]
    return sorted(mutants, key=lambda mutant: mutant.compiled)


def newest() -> dict[str, dict]:
    """Returns the last recorded row of each mutant."""
    return {row["case"]: row for row in record.read("mutants")}


def stale(row: dict, mutant: Mutant) -> list[str]:
    """Describes the changes since a row was recorded."""
    return [name for name, value in mutant.covered().items() if row["covered"].get(name) != value]


def update_copy() -> None:
    """Checks out the tree, with its uncommitted changes, as the copy; unchanged files are not rebuilt."""
    commit = record.git("stash", "create") or record.git("rev-parse", "HEAD")
    if (COPY / ".git").is_file():
        record.git("-C", str(COPY), "checkout", "--quiet", "--detach", "--force", commit)
    else:
        shutil.rmtree(COPY, ignore_errors=True)
        record.git("worktree", "add", "--quiet", "--detach", "--force", str(COPY), commit)


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of a process in the copy."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (COPY, COPY / "kernels")))} | more


def build() -> str:
    """Compiles what has changed in the copy; returns the compiler's messages if that fails."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=COPY, env=environment(), capture_output=True, text=True)
    return f"does not build: {done.stdout[-1000:]}{done.stderr[-1000:]}" if done.returncode else ""


def warm(interpreted: bool) -> subprocess.Popen:
    """Starts tests/warm.py in the copy, with Triton's interpreter or without."""
    here = environment(TRITON_INTERPRET=str(int(interpreted)))
    command = [sys.executable, "-m", "tests.warm"]
    return subprocess.Popen(command, cwd=COPY, env=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(process: subprocess.Popen, *tests: str) -> dict:
    """Runs tests in a warm process; returns the result of `tests.warm.run`."""
    print(json.dumps(tests), file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """Seeds the mistake in the copy while the context lasts. The next build restores C++."""
    path = COPY / mutant.file
    content, times = path.read_text(), path.stat()
    assert content.count(mutant.before) == 1, f"{mutant.id}: {mutant.file} must hold {mutant.before!r} once"
    path.write_text(content.replace(mutant.before, mutant.after))
    try:
        yield
    finally:
        path.write_text(content)
        if not mutant.compiled:  # Python compares bytecode with the time of the source
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def verdict(process: subprocess.Popen, mutant: Mutant) -> tuple[str, float]:
    """Returns "caught" if the named test fails on the mistake, else the test's outcome; and its CPU seconds."""
    with applied(mutant):
        if mutant.compiled and (problem := build()):
            return problem, 0.0
        done = run(process, mutant.test)
    if done["code"] == 1 and re.search(r"\b\d+ failed", done["output"]):
        return "caught", done["seconds"]
    found = "passes" if done["code"] == 0 else f"exit code {done['code']}: {done['output'][-2000:]}"
    return found, done["seconds"]


def main() -> int:
    """Runs the campaign, prints and records the caught mutants; returns 0 if all are caught."""
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
    for interpreted in (True, False):
        group = [mutant for mutant in todo if mutant.interpreted == interpreted]
        if not group:
            continue
        with warm(interpreted) as process:
            done = run(process, *sorted({mutant.test for mutant in group}))
            if done["code"]:
                parser.error(f"a test fails on the unchanged copy: {done['output'][-3000:]}")
            for mutant in group:
                covered, (found, seconds) = mutant.covered(), verdict(process, mutant)
                print(f"{mutant.id}: {found} ({mutant.test}, {seconds:.1f} CPU s)", flush=True)
                if found == "caught":
                    caught += 1
                    row = {"case": mutant.id, "verdict": found, "file": mutant.file, "test": mutant.test}
                    ledger.record(row | {"CPU seconds": round(seconds, 1), "covered": covered})
    print(f"{caught} of {len(mutants)} caught")
    return int(caught < len(mutants))


if __name__ == "__main__":
    sys.exit(main())
