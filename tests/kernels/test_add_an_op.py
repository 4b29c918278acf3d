"""Tests of kernels/add_an_op.md: the op of that page is built from the page alone."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "kernels" / "add_an_op.md").read_text()
FILES = dict(re.findall(r"^`(\S+)`: [^\n]+\n\n```\w+\n(.*?)^```$", PAGE, flags=re.M | re.S))
COMMANDS = "".join(re.findall(r"\n\n```\n(.*?)^```$", PAGE, flags=re.M | re.S)).splitlines()
PACKAGE = "kernels/fastmim_kernels"
INIT = f"{PACKAGE}/__init__.py"
# Loads the C++ of the other ops, which the scratch copy does not compile again.
OTHER_OPS = "import torch\n\nimport fastmim_kernels\n\ntorch.ops.load_library({library!r})\n"


def run(folder: Path, command: str) -> str:
    """Runs a command of the page in the scratch copy and returns its output."""
    words = shlex.split(command)
    path = os.pathsep.join(map(str, (folder, folder / "kernels")))
    environment = os.environ | {"PYTHONPATH": path, "TRITON_CACHE_DIR": str(folder / "cache")}
    environment.pop("TRITON_INTERPRET", None)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    assert words[0] == "python"
    if words[1:3] == ["-m", "pytest"]:
        words += ["-p", "other_ops", "-p", "no:cacheprovider"]
    if words[1:4] == ["-m", "bench", "ops"]:
        words[1:3] = ["-c", "import other_ops, runpy; runpy.run_module('bench', run_name='__main__')"]
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Returns a scratch copy of the repository with the page's files, built by its first command.

    The other ops and the file reader take most of a build. The copy lacks their C++, and the library of this tree
    serves the other ops.
    """
    folder = tmp_path_factory.mktemp("copy")
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("kernels", "bench", "tests", "fastmim"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "results", "cpu.cpp", "cpu_body.cpp", "cpu_test.cpp")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for source in (folder / PACKAGE / "reader").glob("*.cpp"):
        source.write_text("")
    (folder / "other_ops.py").write_text(OTHER_OPS.format(library=str(ROOT / PACKAGE / "_cpu.so")))
    init = folder / INIT
    for name, text in FILES.items():
        if name != INIT:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    before, last = init.read_text().split("\nload_library()\n")
    init.write_text(f"{before}{FILES[INIT]}\nload_library()\n{last}")
    run(folder, COMMANDS[0])
    return folder


def test_the_page_is_whole():
    assert len(FILES) == 10 and FILES[INIT].count("\n") == 1 and len(COMMANDS) == 5
    for name in ("cases.py", "cpu.cpp", "cuda.py", "reference.py"):
        assert f"{PACKAGE}/double_rows/{name}" in FILES


@pytest.mark.costly("build", "the library with the C++ of one op")
def test_the_op_agrees_with_its_reference(copy):
    """Checks the sweep and the op's own tests, in C++ and in Triton's interpreter."""
    for command in COMMANDS[1:3]:
        assert re.search(r"\d+ passed", run(copy, command)), command


LISTED = """
from bench.ops import sanitize
from fastmim_kernels import OPS
from tests.campaign.fuzz import FUZZED
assert all("double_rows" in names for names in (OPS, FUZZED, [name for name, *_ in sanitize.calls()]))
"""


@pytest.mark.costly("compile", "two kernels for one architecture, and the imports of two processes")
def test_the_op_is_compiled_and_listed(copy):
    found = run(copy, f"{COMMANDS[3]} --arch 90")
    assert "0 kernels spill" in found and found.count("double_rows ") == 2
    run(copy, f"python -c {shlex.quote(LISTED)}")


@pytest.mark.slow
def test_the_op_is_measured(copy):
    assert COMMANDS[4].startswith("python -m bench ops")
    found = run(copy, f"{COMMANDS[4]} --samples 2")
    assert found.count("double_rows: mae_vit_b/16 tokens") == 2
