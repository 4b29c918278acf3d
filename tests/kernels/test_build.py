"""Tests of the C++ build: sanitizers, vector code, and the package without its library."""

import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fastmim_kernels

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kernels" / "fastmim_kernels"
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_bodies_under_sanitizers(tmp_path, sanitizer):
    cmake = shutil.which("cmake", path=PATH)
    configure = [cmake, "-S", ROOT, "-B", tmp_path, f"-DFASTMIM_SANITIZE={sanitizer}", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"]
    for command in (
        configure,
        [cmake, "--build", tmp_path, "--target", "body_test", "--parallel", "2"],
        [tmp_path / "body_test"],
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "all passed" in done.stdout


# All bodies as one source with one instruction set, in an eighth of the time of the whole build.
PLAIN = """
#define FASTMIM_ISA plain
#include "body.h"
#undef FASTMIM_CHOOSE
#define FASTMIM_CHOOSE(name) plain::name
#undef FASTMIM_HAS_AVX2
#define FASTMIM_HAS_AVX2 false
"""


@pytest.mark.costly("build", "all plain C++ bodies without optimisation, for the sanitizers of addresses and overflows")
def test_plain_bodies_under_sanitizers(tmp_path):
    sources = [PACKAGE.glob(f"*/{name}") for name in ("cpu_body.cpp", "cpu_test.cpp")]
    included = [path.relative_to(PACKAGE).as_posix() for paths in sources for path in sorted(paths)]
    source = tmp_path / "plain.cpp"
    source.write_text(PLAIN + "".join(f'#include "{name}"\n' for name in (*included, "body_test.cpp")))
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    options = ["-std=c++20", "-O0", "-pthread", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    folders = [f"-I{PACKAGE.parent / 'csrc'}", f"-I{PACKAGE}"]
    for command in ([compiler, *options, *folders, source, "-o", tmp_path / "plain"], [tmp_path / "plain"]):
        done = run(*command)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout == "all passed\n"


# Name of each body, as FASTMIM_DECLARE declares it -> its op.
BODIES = {
    name: path.parent.name
    for path in sorted(PACKAGE.glob("*/cpu_body.h"))
    for name in re.findall(r"^FASTMIM_DECLARE\(\w+, (\w+)\)", path.read_text(), re.M)
}


def test_every_folder_with_sources_is_an_op():
    """CMake builds the folders that have a cpu.cpp; the package registers the ops that it imports."""
    assert sorted(path.parent.name for path in PACKAGE.glob("*/cpu.cpp")) == sorted(fastmim_kernels.OPS)
    assert set(BODIES.values()) == set(fastmim_kernels.OPS)


def test_every_body_has_a_test():
    tested = {
        name
        for path in PACKAGE.glob("*/cpu_test.cpp")
        for name in re.findall(r"FASTMIM_BODY\((\w+)\)", path.read_text())
    }
    assert tested == set(BODIES)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="one instruction set elsewhere")
def test_wide_vectors_only_where_the_machine_was_asked():
    """Only AVX2 code uses 32-byte registers, so no machine meets an instruction that it lacks."""
    fastmim_kernels.require("cpp")
    code = run("objdump", "-d", "-C", "--no-show-raw-insn", PACKAGE / "_cpu.so", check=True).stdout
    functions = re.findall(r"^[0-9a-f]+ <(.+?)>:\n(.*?)(?:\n\n|\Z)", code, flags=re.M | re.S)
    wide = {name: len(re.findall("%ymm", body)) for name, body in functions}
    for name, count in wide.items():
        if "fastmim::avx2::" not in name:
            assert count == 0, f"{name} would be an illegal instruction on an older machine"
    counts = dict.fromkeys(BODIES.values(), 0)
    for body, op in BODIES.items():
        counts[op] += sum(count for name, count in wide.items() if f"fastmim::avx2::{body}(" in name)
    assert min(counts.values()) > 20, counts


SCRIPT = """
import torch, fastmim_kernels as k
print(k.backends())
images = torch.randint(0, 256, (1, 4, 4, 3), dtype=torch.uint8)
pred = torch.zeros(1, 48, requires_grad=True)
k.patch_loss(pred, images, torch.tensor([0]), 4, torch.zeros(3), torch.ones(3), norm_pix=True, loss="l2").backward()
assert pred.grad.abs().sum() > 0
try:
    k.require("cpp")
except RuntimeError as error:
    print("RAISED", error)
"""


@pytest.mark.parametrize(("library", "cause"), [(None, "was not built"), (b"not a library", "does not load")])
def test_without_the_library(tmp_path, library, cause):
    shutil.copytree(PACKAGE, tmp_path / "fastmim_kernels", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if library:
        (tmp_path / "fastmim_kernels" / "_cpu.so").write_bytes(library)
    done = run(sys.executable, "-c", SCRIPT, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "'patch_loss': {'cpu': 'reference'" in done.stdout
    assert re.search(f"RAISED .*{cause}.*setup.py build_ext", done.stdout)
    assert len(done.stderr.splitlines()) == 1 and cause in done.stderr


def test_backends_and_require():
    assert fastmim_kernels.backends()["patch_loss"] == {"cpu": "cpp", "cuda": "triton"}
    fastmim_kernels.require("cpp")
    fastmim_kernels.require("triton")
    fastmim_kernels.use_reference()
    try:
        assert fastmim_kernels.backends()["patch_loss"] == {"cpu": "reference", "cuda": "reference"}
    finally:
        fastmim_kernels.use_reference(False)
    with pytest.raises(ValueError, match="rocm"):
        fastmim_kernels.require("rocm")


def test_import_does_not_import_triton():
    code = "import sys, fastmim_kernels; assert 'triton' not in sys.modules"
    assert run(sys.executable, "-c", code, env=os.environ | {"PYTHONPATH": str(ROOT / "kernels")}).returncode == 0


def test_one_openmp_runtime():
    """The library brings no OpenMP: torch.set_num_threads governs only the pool of torch."""
    needed = run("objdump", "-p", PACKAGE / "_cpu.so", check=True).stdout
    assert "libtorch_cpu.so" in needed and "omp" not in needed and "python" not in needed


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_large_blocks_keep_their_pages():
    """Counts page faults of 64 MB tensors before and after the setting; the heap first has to grow once."""
    program = """
        import resource, torch, fastmim_kernels
        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(10):
                torch.ones(1 << 24)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        given_back = faults()
        assert fastmim_kernels.keep_freed_memory()
        faults()
        print(faults(), given_back)
    """
    kept, given_back = map(int, run(sys.executable, "-c", textwrap.dedent(program), check=True).stdout.split())
    assert kept < given_back / 10
