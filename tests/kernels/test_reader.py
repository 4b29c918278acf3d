"""Tests of the reader: order, errors as results, bounded memory, and how a reader ends."""

import gc
import io
import os
import random
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastmim_kernels.reader import Reader, xxh64

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kernels" / "fastmim_kernels"
MIB = 1 << 20


def png(width: int = 5) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 4), (width, 2, 3)).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, count: int, padding: int = 0) -> list[str]:
    """Writes PNG files of width 1, 2, ..., each with `padding` bytes of garbage at its end."""
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(png(i + 1) + bytes([i % 256]) * padding)
    return [str(path) for path in paths]


def python_xxh64(data: bytes) -> int:
    """Returns XXH64 with seed 0, step by step from the specification."""
    p1, p2, p3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
    p4, p5, mask = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5, (1 << 64) - 1

    def left(x, n):
        x &= mask
        return (x << n | x >> (64 - n)) & mask

    def step(lane, word):
        return left(lane + word * p2, 31) * p1 & mask

    at, hash = 0, p5
    if len(data) >= 32:
        lanes = [p1 + p2, p2, 0, -p1]
        for at in range(0, len(data) - 31, 32):
            words = [int.from_bytes(data[at + 8 * i : at + 8 * i + 8], "little") for i in range(4)]
            lanes = [step(lane, word) for lane, word in zip(lanes, words, strict=True)]
        at += 32
        hash = sum(left(lane, n) for lane, n in zip(lanes, (1, 7, 12, 18), strict=True))
        for lane in lanes:
            hash = ((hash ^ step(0, lane)) * p1 + p4) & mask
    hash += len(data)
    while len(data) - at >= 8:
        hash = left(hash ^ step(0, int.from_bytes(data[at : at + 8], "little")), 27) * p1 + p4
        at += 8
    if len(data) - at >= 4:
        hash = left(hash ^ int.from_bytes(data[at : at + 4], "little") * p1, 23) * p2 + p3
        at += 4
    for byte in data[at:]:
        hash = left(hash ^ byte * p5, 11) * p1
    hash &= mask
    hash = (hash ^ hash >> 33) * p2 & mask
    hash = (hash ^ hash >> 29) * p3 & mask
    return hash ^ hash >> 32


def test_xxh64():
    assert xxh64(b"") == 0xEF46DB3751D8E999
    assert xxh64(b"a") == 0xD24EC4F1A98C6E5B
    assert xxh64(b"abc") == 0x44BC2CF5AD770999
    data = random.Random(0).randbytes(200)
    for length in range(200):
        assert xxh64(data[:length]) == python_xxh64(data[:length])


@pytest.mark.parametrize("threads", [1, 3])
def test_files_in_order(tmp_path, threads):
    paths = write(tmp_path, 100, padding=1000)
    with Reader(threads, checksum=True) as reader:
        batches = [reader.submit(paths[i : i + 10]) for i in range(0, 100, 10)] + [reader.submit([])]
        files = [file for batch in batches for file in batch.result()]
        with pytest.raises(RuntimeError, match="already"):
            batches[0].result()
    assert [file.path for file in files] == paths
    for i, file in enumerate(files):
        content = Path(paths[i]).read_bytes()
        assert file.error is None and (file.header.format, file.header.width) == ("png", i + 1)
        assert file.data.dtype == np.uint8 and file.data.tobytes() == content
        assert file.checksum == xxh64(content)
    with pytest.raises(ValueError, match="read-only"):
        files[0].data[0] = 1
    view = files[0].data[8:]
    del files, batches, file
    gc.collect()
    assert view.tobytes() == Path(paths[0]).read_bytes()[8:]


def test_a_bad_file_is_a_result(tmp_path):
    good = tmp_path / "good"
    good.write_bytes(png())
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "huge").write_bytes(b"")
    os.truncate(tmp_path / "huge", (1 << 30) + 1)
    (tmp_path / "text").write_bytes(b"hello")
    (tmp_path / "loop").symlink_to("loop")
    expected = {
        "pipe": "not a file but a pipe",
        "huge": "too large: the file has 1073741825 bytes",
        "empty": "empty",
        "text": "not an image but text",
        "loop": "cannot be opened",
        "missing": "cannot be opened: No such file",
        "good/below": "cannot be opened: Not a directory",
        ".": "not a file but a directory",
    }
    names = ["good", *expected, "good"]
    with Reader(2, checksum=True) as reader:
        files = reader.submit([*(str(tmp_path / name) for name in names), "/dev/zero", ""]).result()
        with pytest.raises(ValueError, match="zero byte"):
            reader.submit(["a\0b"])
    for name, file in zip(expected, files[1:], strict=False):
        assert expected[name] in file.error and file.header is None
        assert (file.checksum is None) == (name not in ("empty", "text"))
    assert files[0].error is None and files[len(names) - 1].error is None
    assert "a device" in files[-2].error and "cannot be opened" in files[-1].error
    assert files[names.index("text")].data.tobytes() == b"hello"  # the bytes stay available


def test_any_file_name(tmp_path):
    names = ["a b", "line\nbreak", "größe", os.fsdecode(b"\xff\xfe"), "-x", "%s"]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(png(i + 1))
    with Reader(1) as reader:
        files = reader.submit([str(tmp_path / name) for name in names]).result()
    assert [file.header.width for file in files] == list(range(1, len(names) + 1))
    assert all(file.checksum is None for file in files)


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_bounded(tmp_path):
    paths = write(tmp_path, 40, padding=MIB)
    with Reader(2, max_bytes=5 * MIB) as reader:
        before = memory()
        batches = [reader.submit(paths[i : i + 2]) for i in range(0, 40, 2)]
        time.sleep(0.3)
        assert memory() - before < 8 * MIB
        for batch in batches:
            files = batch.result()
            assert all(file.error is None for file in files)
            assert memory() - before < 12 * MIB
        # Without releases, far above the bound, and in any order: each waiting caller gets its files.
        del files
        batches = [reader.submit(paths[i : i + 10]) for i in range(0, 40, 10)]
        kept = [batches[i].result() for i in (2, 0, 3, 1)]
        assert sum(len(files) for files in kept) == 40


def test_a_file_above_the_bound(tmp_path):
    paths = write(tmp_path, 3, padding=MIB)
    with Reader(1, max_bytes=1000) as reader:
        assert [file.header.width for file in reader.submit(paths).result()] == [1, 2, 3]


def test_close_with_work_outstanding(tmp_path):
    paths = write(tmp_path, 20, padding=100_000)

    def state():
        gc.collect()
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    def cycle(i: int) -> None:
        with Reader(3, max_bytes=300_000) as reader:
            batches = [reader.submit(paths) for _ in range(4)]
            kept = batches[0].result() if i % 2 else []
            if i % 3:
                del batches[1]
        for file in kept:
            assert file.data[0] == 0x89
        with pytest.raises(RuntimeError, match="closed"):
            batches[-1].result()
        with pytest.raises(RuntimeError, match="closed"):
            reader.submit(paths)
        reader.close()

    for i in range(10):
        cycle(i)
    before, size = state(), memory()
    for i in range(100):
        cycle(i)
    assert state() == before
    assert memory() - size < 4 * MIB


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "kernels")} | environment
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, timeout=120
    )


def test_use_from_many_threads(tmp_path):
    paths = write(tmp_path, 10)

    def use() -> int:
        count = 0
        while True:
            try:
                batch = reader.submit(paths)
                count += len(batch.result())
            except RuntimeError as error:
                assert "closed" in str(error)
                return count

    with Reader(2) as reader, ThreadPoolExecutor(8) as pool:
        uses = [pool.submit(use) for _ in range(4)]
        shared = reader.submit(paths)
        same = [pool.submit(shared.result) for _ in range(4)]
        assert sum(future.exception() is None for future in same) == 1
        reader.close()
    assert all(future.result() > 0 for future in uses)


def test_exit_with_work_outstanding(tmp_path):
    code = """
import sys
from fastmim_kernels.reader import Reader
reader = Reader(2, max_bytes=1000)
batches = [reader.submit(sys.argv[1:]) for _ in range(50)]
kept = batches[0].result()
print(len(kept))
"""
    done = run(code, *write(tmp_path, 10, padding=10_000))
    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")


def test_fork(tmp_path):
    code = """
import gc, os, sys
from fastmim_kernels.reader import Reader
reader = Reader(2, max_bytes=20_000)
batches = [reader.submit(sys.argv[1:]) for _ in range(20)]
kept = batches[0].result()
child = os.fork()
if child == 0:
    for use in (lambda: reader.submit(sys.argv[1:]), batches[1].result):
        try:
            use()
        except RuntimeError as error:
            assert "another process" in str(error)
        else:
            os._exit(1)
    assert kept[0].data[0] == 0x89
    reader.close()
    del kept, batches, use
    gc.collect()
    with Reader(1) as reader:
        assert reader.submit(sys.argv[1:]).result()[0].error is None
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert all(len(batch.result()) == 10 for batch in batches[1:])
print("fine")
"""
    done = run(code, *write(tmp_path, 10, padding=10_000))
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.parametrize(("failures", "cause"), [(3, None), (4, "cannot be read")])
def test_passing_errors_are_retried(tmp_path, failures, cause):
    """A preloaded library makes the first reads fail, as those of a network disk may."""
    source = tmp_path / "fail.c"
    source.write_text(
        """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/types.h>
ssize_t pread(int fd, void* to, size_t n, off_t at) {
  static int calls = 0;
  const int errors[] = {EIO, ESTALE, EINTR, EAGAIN};
  if (calls++ < atoi(getenv("FAILURES"))) return errno = errors[(calls - 1) % 4], -1;
  return ((ssize_t(*)(int, void*, size_t, off_t))dlsym(RTLD_NEXT, "pread"))(fd, to, n, at);
}
"""
    )
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "fail.so", source, "-ldl"], check=True)
    code = """
import sys
from fastmim_kernels.reader import Reader
with Reader(1) as reader:
    file = reader.submit(sys.argv[1:]).result()[0]
print(file.error, len(file.data))
"""
    paths = write(tmp_path, 1)
    done = run(code, *paths, LD_PRELOAD=str(tmp_path / "fail.so"), FAILURES=str(failures))
    assert done.returncode == 0, done.stderr
    if cause:
        assert re.match(f"{cause}.* 0$", done.stdout)
    else:
        assert done.stdout == f"None {Path(paths[0]).stat().st_size}\n"


@pytest.mark.parametrize(
    ("library", "cause"), [(None, "was not built"), (b"not a library", "does not load"), ("old", "is older")]
)
def test_without_the_library(tmp_path, library, cause):
    package = tmp_path / "fastmim_kernels"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("_reader.so", "__pycache__"))
    if library == "old":
        shutil.copy(PACKAGE / "_reader.so", package / "_reader.so")
        os.utime(package / "_reader.so", (0, 0))
    elif library:
        (package / "_reader.so").write_bytes(library)
    code = """
from fastmim_kernels.reader import Reader, parse_header
for use in (lambda: Reader(1), lambda: parse_header(b"")):
    try:
        use()
    except RuntimeError as error:
        print(error)
"""
    done = run(code, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(re.findall(f"{cause}.*setup.py build_ext", done.stdout)) == 2


def test_arguments():
    for arguments in ((0,), (1, 0)):
        with pytest.raises(ValueError, match="1 to 1024 threads"):
            Reader(*arguments)
