"""Tests that checkpoints survive kills, power cuts, full disks and rot, and that folders are locked."""

import errno
import fcntl
import json
import os
import random
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fastmim.run import checkpoint
from fastmim.run import folder as runfolder
from fastmim.run.checkpoint import CheckpointError, load, save
from fastmim.run.folder import FolderError, lock
from tests.train.launched import Forks, wait_for

OPERATIONS = ("mkdir", "open", "write", "fsync", "rename", "unlink", "rmdir")
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


class Crash(BaseException):
    """The end of the process at a file operation."""


class Shim:
    """A shim that numbers and logs all changing file operations, and can end or fail the `at`-th."""

    def __init__(self, at=None, fault=None):
        self.at, self.fault, self.log, self.paths = at, fault, [], {}

    def call(self, name, real, *args, **options):
        folder = self.paths.get(options.get("dir_fd"))
        path = os.path.join(folder, args[0]) if folder else args[0]
        if name == "open" and not args[1] & os.O_CREAT:
            fd = real(*args, **options)
            self.paths[fd] = path
            return fd
        count = len(self.log)
        if name in ("write", "fsync"):
            path = self.paths[args[0]]
        self.log.append((name, path, bytes(args[1]) if name == "write" else args[1] if name == "rename" else None))
        if count == self.at:
            if name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            raise self.fault
        if name == "fsync":
            return None
        result = real(*args, **options)
        if name == "open":
            self.paths[result] = path
        return result


@contextmanager
def shim(at=None, fault=None):
    this = Shim(at, fault)
    real = {name: getattr(os, name) for name in OPERATIONS}

    def patched(name):
        return lambda *args, **options: this.call(name, real[name], *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, patched(name))
        yield this


def state_at(step):
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(3, 5, generator=generator)
    return {
        "model": {"head.weight": weight, "head.frozen": torch.arange(step), "bn.batches": torch.tensor(step)},
        "exp_avg": {"head.weight": weight / 2},
        "exp_avg_sq": {"head.weight": weight**2},
        "scalars": {"step": torch.tensor(float(step))},
    }


def put(folder, step, keep=2):
    return save(folder, step, state_at(step), {"seen": step * 8}, keep)


def equal(a, b):
    return a.keys() == b.keys() and all(
        a[group].keys() == b[group].keys()
        and all(torch.equal(x, b[group][name]) and x.dtype == b[group][name].dtype for name, x in a[group].items())
        for group in a
    )


def valid_steps(folder):
    return sorted(checkpoint._order(p)[0] for p in checkpoint._newest_first(folder) if not checkpoint._problem(p))


def check(folder, allowed, at_least):
    """Checks the rules that hold at every instant; returns the step that a restart continues from."""
    loaded = load(folder, report=lambda line: None)
    assert loaded.step in allowed
    assert equal(loaded.state, state_at(loaded.step)) and loaded.meta == {"seen": loaded.step * 8}
    assert len(valid_steps(folder)) >= at_least
    return loaded.step


@pytest.fixture
def base(tmp_path):
    """The folder of a run that has saved steps 10 and 20, and crashed once inside a save."""
    folder = tmp_path / "base"
    put(folder, 10)
    put(folder, 20)
    with shim(at=12, fault=Crash()), pytest.raises(Crash):
        put(folder, 25)
    return folder


def test_round_trip(tmp_path):
    state = {
        "model": {
            "half": torch.randn(7).bfloat16(),
            "flag": torch.tensor(True),
            "empty": torch.zeros(0, 3),
            "transposed": torch.randn(3, 4).t(),
            "double": torch.randn(2, dtype=torch.float64),
        },
        "exp_avg": {},
        "exp_avg_sq": {},
        "scalars": {"a.b": torch.tensor(3)},
    }
    path = save(tmp_path / "new" / "checkpoints", 123, state, {"config": {"a": [1, None]}}, 1)
    loaded = load(tmp_path / "new" / "checkpoints")
    assert path.name == "step-00000123" and (loaded.path, loaded.step) == (path, 123)
    assert equal(loaded.state, state) and loaded.meta == {"config": {"a": [1, None]}}


def test_empty_folder(tmp_path):
    assert load(tmp_path) is None and load(tmp_path / "missing") is None


@pytest.mark.parametrize("step", [30, 20])
def test_stop_at_every_operation(base, tmp_path, step):
    """Step 20 is saved a second time, so its name exists already."""
    folder = shutil.copytree(base, tmp_path / "whole")
    with shim() as whole:
        put(folder, step)
    began_from = set()
    for at in range(len(whole.log)):
        folder = shutil.copytree(base, tmp_path / f"stop{at}")
        with shim(at, Crash()), pytest.raises(Crash):
            put(folder, step)
        named = (folder / "latest").read_text().strip()
        began_from.add(check(folder, {20, 30}, at_least=2))
        assert load(folder).path.name == named
        restarted = shutil.copytree(folder, tmp_path / f"restarted{at}")
        checkpoint.tidy(restarted, load(restarted), keep=2)
        assert len(os.listdir(restarted)) == 3 and load(restarted).path.name == named
        with shim():
            put(folder, 40)
        assert check(folder, {40}, at_least=2) == 40
        assert len(os.listdir(folder)) == 3, "two checkpoints and `latest`, nothing else"
    assert began_from == {20, step} and len(whole.log) > 30


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_full_disk_at_every_operation(base, tmp_path, code):
    folder = shutil.copytree(base, tmp_path / "whole")
    with shim() as whole:
        put(folder, 30)
    for at in range(len(whole.log)):
        folder = shutil.copytree(base, tmp_path / f"full{at}")
        with shim(at, OSError(code, os.strerror(code))), pytest.raises(CheckpointError, match=os.strerror(code)):
            put(folder, 30)
        check(folder, {20, 30}, at_least=2)
        assert not (folder / "tmp-step-00000030").exists()
        with shim():
            put(folder, 40)
        assert check(folder, {40}, at_least=2) == 40 and len(os.listdir(folder)) == 3


def image_after_power_cut(before, log, draw):
    """Returns the files that a power cut may leave; `draw` decides about each change without fsync.

    `before` maps each durable path to its bytes (None = folder). Entries are durable once their folder was fsynced,
    contents once their file was. All else may be lost in any order, which is more than real file systems lose.
    """
    names, contents = dict(before), {}
    for index, (name, path, extra) in enumerate(log):
        later = {p for operation, p, _ in log[index + 1 :] if operation == "fsync"}
        if name == "write":
            written = extra if path in later or draw() else bytes(len(extra))
            contents[path] = contents.get(path, b"") + written
            if path in names:
                names[path] = contents[path]
            continue
        if name == "fsync" or not (os.path.dirname(path) in later or draw()):
            continue
        if name in ("mkdir", "open") and os.path.dirname(path) in names:
            names[path] = None if name == "mkdir" else b""
            contents[path] = b""
        elif name == "rename":
            moved = {p: v for p, v in names.items() if p == path or p.startswith(path + "/")}
            names = {p: v for p, v in names.items() if p not in moved}
            names |= {extra + p.removeprefix(path): v for p, v in moved.items()}
        elif name in ("unlink", "rmdir"):
            names = {p: v for p, v in names.items() if p != path and not p.startswith(path + "/")}
    return names


def power_cuts(base, tmp_path, forget_fsync):
    """Cuts a save at every operation, several times each; yields (remaining folder, True if whole)."""
    before = {str(p): None if p.is_dir() else p.read_bytes() for p in [base, *base.rglob("*")]}
    with shim() as whole:
        put(base, 30)
    log = [(n, str(p), str(e) if n == "rename" else e) for n, p, e in whole.log if not (forget_fsync and n == "fsync")]
    rng = random.Random(0)
    for cut in range(len(log) + 1):
        for keep_odds in (0, 0.5, 0.5, 0.5, 1):
            image = image_after_power_cut(before, log[:cut], lambda odds=keep_odds: rng.random() < odds)
            folder = tmp_path / "image"
            shutil.rmtree(folder, ignore_errors=True)
            for path, content in sorted(image.items()):
                target = folder / os.path.relpath(path, base)
                target.mkdir() if content is None else target.write_bytes(content)
            yield folder, cut == len(log)


def test_power_cut(base, tmp_path):
    for folder, whole in power_cuts(base, tmp_path, forget_fsync=False):
        check(folder, {30} if whole else {20, 30}, at_least=2)
        with shim():
            put(folder, 40)
        assert check(folder, {40}, at_least=2) == 40 and len(os.listdir(folder)) == 3


def test_power_cut_model_finds_missing_fsync(base, tmp_path):
    with pytest.raises((AssertionError, RuntimeError)):
        for folder, whole in power_cuts(base, tmp_path, forget_fsync=True):
            check(folder, {30} if whole else {20, 30}, at_least=2)


def test_rot_is_found(base):
    rng = random.Random(0)
    lines = []
    for number in range(60):
        path = base / "step-00000020" / FILES[number % 4]
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= rng.randrange(1, 256)
        path.write_bytes(bad if number % 3 else good[: rng.randrange(len(good))])
        assert load(base, report=lines.append).step == 10
        assert len(lines) == number + 1
        assert "step-00000020 is not valid" in lines[-1] and "using step-00000010 instead" in lines[-1]
        path.write_bytes(good)
    assert load(base, report=lines.append).step == 20 and len(lines) == 60


@pytest.mark.parametrize("header", [b"", (64).to_bytes(8, "little") + b"{}" + b" " * 62, "as the file"])
@pytest.mark.parametrize("name", FILES[:2])
def test_a_huge_file_of_no_use_is_refused_without_reading_it(base, name, header):
    """If the size of a sparse file fits its tensors, the caller's check refuses the file first."""
    size, path = 1 << 40, base / "step-00000020"
    if header == "as the file":
        text = json.dumps({"w": {"dtype": "U8", "shape": [size - 136], "data_offsets": [0, size - 136]}}).encode()
        header = (128).to_bytes(8, "little") + text.ljust(128)
    (path / name).write_bytes(header)
    os.truncate(path / name, size)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest[name]["size"] = size
    (path / "manifest.json").write_bytes(checkpoint._json(manifest))

    def refuse(loaded):
        if loaded.step == 20:
            raise ValueError("of no model")

    lines = []
    assert load(base, lines.append, refuse).step == 10
    (path / name).unlink()
    assert len(lines) == 1 and "step-00000020 is not valid" in lines[0]


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(base, name):
    (base / "step-00000020" / name).unlink()
    lines = []
    assert load(base, report=lines.append).step == 10
    assert f"{name} cannot be read (No such file or directory)" in lines[0]


def test_renamed_checkpoint_is_refused(base):
    (base / "step-00000010").rename(base / "step-00000099")
    (base / "latest").unlink()
    lines = []
    assert load(base, report=lines.append).step == 20 and "holds step 10" in lines[0]


@pytest.mark.parametrize("text", ["", "step-00000099\n", "../base/step-00000010\n", "\0\xff"])
def test_damaged_latest(base, text):
    (base / "latest").write_text(text)
    lines = []
    assert load(base, report=lines.append).step == 20 and "`latest` names" in lines[0]


def test_nothing_valid_is_an_error(base):
    for step in (10, 20):
        (base / f"step-000000{step}" / "state.json").write_text("{}")
    with pytest.raises(RuntimeError, match=r"step-00000020.*step-00000010.*choose another run folder"):
        load(base)


def test_damaged_checkpoint_does_not_count_as_kept(base):
    (base / "step-00000020" / "model.safetensors").write_bytes(b"")
    put(base, 30)
    assert valid_steps(base) == [10, 30] and len(os.listdir(base)) == 3


def test_abandoned_later_steps_go_first(base):
    put(base, 15)
    put(base, 16)
    assert valid_steps(base) == [15, 16] and load(base).step == 16


def test_resaved_step_replaces_the_old(base):
    assert put(base, 20).name == "step-00000020.2"
    assert put(base, 20).name == "step-00000020.3"
    assert valid_steps(base) == [10, 20] and load(base).path.name == "step-00000020.3"


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="epoch"):
        save(tmp_path, 1, {"model": {}, "epoch": {}}, {}, 2)
    with pytest.raises(ValueError, match="keep must be at least 1"):
        save(tmp_path, 1, {"model": {}}, {}, 0)
    with pytest.raises(TypeError, match="complex64"):
        save(tmp_path, 1, {"model": {"w": torch.zeros(1, dtype=torch.complex64)}}, {}, 1)
    with pytest.raises(TypeError):
        save(tmp_path, 1, {"model": {}}, {"path": Path()}, 1)
    assert not os.listdir(tmp_path)


def hold(folder: Path) -> None:
    """Locks a run folder until killed."""
    lock_file = lock(folder)
    (folder / "locked").touch()
    signal.pause()
    lock_file.close()


@pytest.mark.costly("processes", "ranks; the first test of ranks imports all that they need")
def test_second_run_is_refused(tmp_path):
    with Forks(tmp_path / "output", 1, hold, tmp_path / "run") as forks:
        wait_for((tmp_path / "run/locked").exists)
        pid = forks.ranks[0].pid
        with pytest.raises(RuntimeError, match=f"in use by process {pid} on .*choose another") as refused:
            lock(tmp_path / "run")
        assert "\n" not in str(refused.value)
    lock(tmp_path / "run").close()


def test_a_refused_start_leaves_the_lock_of_the_run_that_came_first(tmp_path, monkeypatch):
    first = []

    def late(folder):
        first.append(lock(folder))  # the lock of another run, which came after this run had looked
        return lock(folder)

    monkeypatch.setattr(runfolder, "lock", late)
    with pytest.raises(FolderError, match="in use by"), runfolder.starting(tmp_path / "run"):
        pass
    with pytest.raises(FolderError, match="in use by"):
        lock(tmp_path / "run")
    first[0].close()


def test_a_lock_that_a_refused_start_has_just_removed_is_made_again(tmp_path, monkeypatch):
    flock = fcntl.flock

    def removed(file, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        os.unlink(tmp_path / "lock")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", removed)
    with lock(tmp_path), pytest.raises(FolderError, match="in use by"):
        lock(tmp_path)
