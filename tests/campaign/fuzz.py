"""The fuzz campaign: every op's fuzz tests with the examples of the profile "campaign".

Run `python -m tests.campaign.fuzz` from the repository root for C++ and Triton's interpreter. `--device cuda` runs the
kernels on a GPU, with few different constants, since each needs a kernel to be compiled. `--only OP ...` selects ops.
Results that are recorded and not stale are skipped, so the same command continues an interrupted campaign.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time

from bench import record
from fastmim_kernels import OPS
from tests.campaign.ledger import ROOT, Ledger, digest

PACKAGE = "kernels/fastmim_kernels"
BACKENDS = {"cpu": ("cpp", "interpreter"), "cuda": ("triton",)}
WITH = {"composite_residual_backward": "composite_residual"}
"""Ops that the fuzz test of another op covers."""
FUZZED = tuple(name for name in OPS if name not in WITH)


GPU_TEST = "tests/kernels/test_fuzz_gpu.py"


def covered(op: str, backend: str) -> dict[str, str]:
    """Returns digests of all that the tests of an op depend on.

    A changed digest makes an earlier result stale.

    The dependencies are the op's folder, the folders it imports from, shared code, and the tests.
    """
    folders = {other for other, own in WITH.items() if own == op} | {op}
    while True:
        code = [p.read_text() for name in folders for p in (ROOT / PACKAGE / name).iterdir() if p.is_file()]
        names = {name for text in code for name in re.findall(r"(?:from \.\.|#include \"\.\./)(\w+)", text)}
        if (names := names & OPS.keys()) <= folders:
            break
        folders |= names
    found = {}
    for folder in ["kernels/csrc", *(f"{PACKAGE}/{name}" for name in sorted(folders))]:
        files = [p for p in (ROOT / folder).iterdir() if p.suffix in (".py", ".cpp", ".h")]
        found[folder] = digest([p.relative_to(ROOT).as_posix() for p in files])
    test = f"tests/kernels/test_{op}.py"
    helpers = re.findall(r"from tests\.kernels\.(\w+) import", (ROOT / test).read_text())
    shared = [p.relative_to(ROOT).as_posix() for p in (ROOT / PACKAGE).glob("_[a-z]*.py")]
    tests = ["tests/conftest.py", "tests/kernels/conftest.py", test, *(f"tests/kernels/{name}.py" for name in helpers)]
    tests += [GPU_TEST] if backend == "triton" else []
    return found | {name: digest([name]) for name in (*sorted(shared), *tests)}


def stale(row: dict) -> list[str]:
    """Returns the dependencies of a recorded row that have changed since."""
    found = covered(row["op"], row["case"].rsplit(", ", 1)[1])
    return [name for name in found.keys() | row["covered"].keys() if row["covered"].get(name) != found.get(name)]


def newest() -> dict[str, dict]:
    """Returns the last recorded row of each op and implementation."""
    return {row["case"]: row for row in record.read("fuzz")}


def case(op: str, backend: str) -> str:
    return f"{op}, {backend}"


def attempt(op: str, backend: str, profile: str = "campaign") -> dict:
    """Runs the fuzz test of one implementation of an op.

    Raises:
        AssertionError: an example failed. The message ends with the output of pytest.
        RuntimeError: the op's code changed during the test.
    """
    before, started = covered(op, backend), time.perf_counter()
    environment = os.environ | {"TRITON_INTERPRET": "1" if backend == "interpreter" else "0"}
    test = f"tests/kernels/test_{op}.py::test_fuzz_{'cpp' if backend == 'cpp' else 'triton'}"
    if backend == "triton":
        test = f"{GPU_TEST}::test_fuzz[{op}]"
    options = [f"--hypothesis-profile={profile}", "--hypothesis-show-statistics", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", test, *options], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{case(op, backend)}: {done.stdout[-5000:]}{done.stderr[-2000:]}"
    if covered(op, backend) != before:
        raise RuntimeError(f"{case(op, backend)}: the code changed meanwhile")
    return {
        "case": case(op, backend),
        "op": op,
        "examples": int(re.search(r"(\d+) passing", done.stdout)[1]),
        "seconds": round(time.perf_counter() - started, 1),
        "covered": before,
    }


def main() -> int:
    """Runs the campaign, records results in bench/results, and returns 0 if all examples passed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=sorted(BACKENDS), default="cpu")
    parser.add_argument("--only", nargs="+", choices=FUZZED, default=FUZZED, metavar="OP", help="these ops")
    ledger = Ledger(parser, "fuzz")
    arguments = ledger.arguments
    known = newest()
    jobs = [(op, backend) for op in arguments.only for backend in BACKENDS[arguments.device]]
    todo = [job for job in jobs if (row := known.get(case(*job))) is None or stale(row)]
    print(f"{len(jobs)} fuzz tests, {len(jobs) - len(todo)} of them recorded and not stale", flush=True)
    failed = ledger.run(attempt, todo, "{case:<40}{examples:>6} examples  no mismatch  {seconds:>8} s")
    print(f"{len(todo) - failed} of {len(todo)} hold")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
