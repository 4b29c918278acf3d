"""Durable files: one checkpoint format (safetensors by parameter name + JSON), written so that a kill, a power cut or a
full disk at any instant leaves the newest finished checkpoint loadable, and the lock of a run folder.

May import torch, safetensors and the standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

State = dict[str, dict[str, Tensor]]

_FORMAT = 1
_USUAL = ("exp_avg", "exp_avg_sq", "scalars")
_GROUPS = (*_USUAL, "momentum_buffer", "ema")
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")
_LEFTOVER = ("tmp-", "trash-")
_CHUNK = 1 << 24
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class CheckpointError(Exception):
    """The system refused a write; earlier checkpoints are untouched and training may go on.

    saved: whether the new checkpoint is there all the same, and only the removal of old ones failed.
    """

    def __init__(self, message: str, saved: bool = False):
        super().__init__(message)
        self.saved = saved


class FolderError(RuntimeError):
    """A run folder cannot be used as it is."""


@dataclass(frozen=True)
class Loaded:
    """A verified checkpoint: `state` and `meta` as they were given to `save` at `step`; `path` is its folder."""

    step: int
    state: State
    meta: dict[str, Any]
    path: Path


def save(folder: Path, step: int, state: State, meta: dict[str, Any], keep: int) -> Path:
    """Writes a checkpoint of `step`, then removes all but the newest `keep` valid ones and what crashes left behind.

    Everything is written and fsynced under a temporary name, renamed, and only then named by `latest`; an old
    checkpoint goes only after that. A step that exists already is written beside it (`step-00000123.2`). Checkpoints
    of later steps belong to a line of training that was abandoned, and are the first to go.

    Args:
        folder: where the run's checkpoints lie; made if missing.
        step: updates done.
        state: tensors by group ("model" and any of `_GROUPS`) and parameter name.
        meta: anything JSON can hold.
        keep: checkpoints to keep, this one included.

    Returns: the new checkpoint's folder.
    Raises:
        CheckpointError: the system refused (disk full, ...). No partial is left; try again at the next save.
        ValueError: an unknown group, or `keep` below 1.
        TypeError: a dtype or a value in `meta` that the format cannot hold.
    """
    if unknown := set(state) - {"model", *_GROUPS}:
        raise ValueError(f"a checkpoint holds the groups {('model', *_GROUPS)}, got also {sorted(unknown)}")
    if keep < 1:
        raise ValueError(f"keep must be at least 1 checkpoint, got {keep}")
    optimizer = {f"{group}.{name}": t for group in _GROUPS for name, t in state.get(group, {}).items()}
    contents = {
        "model.safetensors": safetensors_bytes(state["model"]),
        "optimizer.safetensors": safetensors_bytes(optimizer),
        "state.json": [_json({"format": _FORMAT, "step": step, "meta": meta})],
    }
    partial = folder / f"tmp-step-{step:08d}"
    try:
        _make_folder(folder)
        _remove_leftovers(folder)
        os.mkdir(partial)
        manifest = {name: _write(partial / name, chunks) for name, chunks in contents.items()}
        _write(partial / "manifest.json", [_json(manifest)])
        _fsync_folder(partial)
        path = _free_name(folder, step)
        os.rename(partial, path)
        _fsync_folder(folder)
        _write(folder / "tmp-latest", [f"{path.name}\n".encode()])
        os.rename(folder / "tmp-latest", folder / "latest")
        _fsync_folder(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(folder / "tmp-latest")
        raise CheckpointError(
            f"the checkpoint of step {step} was not saved in {folder} ({error}); earlier ones are untouched"
        ) from error
    try:
        _prune(folder, path, step, keep)
    except OSError as error:
        raise CheckpointError(
            f"{path} is saved, but older checkpoints could not be removed ({error})", saved=True
        ) from error
    return path


def load(folder: Path, report: Callable[[str], object] = print) -> Loaded | None:
    """Reads the checkpoint that `latest` names if every file matches its manifest, else the newest one that does.

    Args:
        folder: what was given to `save`.
        report: called with one line for each checkpoint that was passed over: which, why, and which is used instead.

    Returns: the checkpoint, or None if the folder holds none.
    Raises:
        FolderError: there are checkpoints, but none is valid.
    """
    paths = _newest_first(folder)
    problems = []
    if (folder / "latest").exists():
        name = (folder / "latest").read_text(errors="replace").strip()
        named = [path for path in paths if path.name == name]
        if not named:
            problems.append(f"`latest` names {name[:40]!r}, which is not there")
        paths = named + [path for path in paths if path not in named]
    for path in paths:
        if problem := _problem(path):
            problems.append(f"checkpoint {path.name} is not valid: {problem}")
            continue
        for line in problems:
            report(f"{line}; using {path.name} instead")
        stored = json.loads((path / "state.json").read_bytes())
        state: State = {"model": load_file(path / "model.safetensors"), **{group: {} for group in _USUAL}}
        for key, tensor in load_file(path / "optimizer.safetensors").items():
            group, _, name = key.partition(".")
            state.setdefault(group, {})[name] = tensor
        return Loaded(stored["step"], state, stored["meta"], path)
    if problems:
        raise FolderError(
            f"no valid checkpoint in {folder}: {'; '.join(problems)}. To start afresh, choose another run folder"
        )
    return None


def tidy(folder: Path, loaded: Loaded, keep: int) -> None:
    """Finishes what a kill cut short: removes leftovers, and all but `loaded` and the `keep` - 1 before it."""
    _remove_leftovers(folder)
    _prune(folder, loaded.path, loaded.step, keep)


def lock(run_dir: Path) -> IO[str]:
    """Claims a run folder for this process until the returned file is closed or the process ends.

    Raises:
        FolderError: another process holds it; the message names that process.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    file = open(run_dir / "lock", "a+")  # noqa: SIM115 - the caller holds it open: that is the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise FolderError(f"{run_dir} is in use by {holder}: stop it, or choose another run folder") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def _problem(path: Path) -> str | None:
    """Why a checkpoint cannot be used, or None if every byte is as it was written."""
    try:
        text = (path / "manifest.json").read_bytes()
        manifest = json.loads(text)
        # A changed byte that leaves the same JSON value (a space, say) is damage too.
        if text != _json(manifest) or sorted(manifest) != sorted(_FILES):
            return "manifest.json is damaged"
        for name, expected in manifest.items():
            with open(path / name, "rb") as file:
                digest = hashlib.sha256()
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                found = {"sha256": digest.hexdigest(), "size": file.tell()}
            if found != expected:
                return f"{name} differs from its manifest (size {found['size']}, written {expected['size']})"
        stored = json.loads((path / "state.json").read_bytes())
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    except (ValueError, TypeError, KeyError):
        return "manifest.json is damaged"
    if stored["format"] != _FORMAT:
        return f"its format is {stored['format']}, this version reads {_FORMAT}"
    if stored["step"] != _order(path)[0]:
        return f"it holds step {stored['step']}, not the step of its name"
    return None


def _prune(folder: Path, newest: Path, step: int, keep: int) -> None:
    """Removes every checkpoint but `newest` and the `keep` - 1 valid ones that came before it."""
    others = [path for path in _newest_first(folder) if path != newest]
    # Of the same step: superseded. Of a later one: last in line. Sorting is stable, so the rest stays newest first.
    candidates = sorted((path for path in others if _order(path)[0] != step), key=lambda path: _order(path)[0] > step)
    kept: list[Path] = []
    for path in candidates:
        if len(kept) < keep - 1 and _problem(path) is None:
            kept.append(path)
    for path in others:
        if path not in kept:
            trash = folder / f"trash-{path.name}"
            os.rename(path, trash)
            # Durable before the first unlink: a power cut must not give a half-deleted checkpoint its name back.
            _fsync_folder(folder)
            shutil.rmtree(trash)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name.startswith(_LEFTOVER):
            shutil.rmtree(path) if path.is_dir() else os.unlink(path)


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_order, reverse=True)


def _order(path: Path) -> tuple[int, int]:
    """(step, how many times it was saved) from a checkpoint's name."""
    step, generation = _NAME.fullmatch(path.name).groups()
    return int(step), int(generation or 1)


def _free_name(folder: Path, step: int) -> Path:
    taken = [generation for s, generation in map(_order, _newest_first(folder)) if s == step]
    return folder / (f"step-{step:08d}" + (f".{max(taken) + 1}" if taken else ""))


def _make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        os.mkdir(path)
        _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: Path, chunks: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Writes a new file durably; gives its manifest entry, hashed on the way so that nothing is read twice."""
    digest, size = hashlib.sha256(), 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for chunk in chunks:
            for start in range(0, len(chunk), _CHUNK):
                piece = memoryview(chunk)[start : start + _CHUNK]
                digest.update(piece)
                size += len(piece)
                while piece:
                    piece = piece[os.write(fd, piece) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    return {"sha256": digest.hexdigest(), "size": size}


def safetensors_bytes(tensors: dict[str, Tensor]) -> Iterable[bytes | memoryview]:
    """Returns the bytes of a safetensors file, one tensor at a time: the library's own writer copies them all at once.

    Layout: header length (uint64, little-endian), JSON header padded to 8 bytes, then the tensors, widest first so
    that each is aligned (https://huggingface.co/docs/safetensors, "Format").
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"a checkpoint cannot hold {name} of {tensor.dtype}; it can hold {list(_DTYPES)}")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    first = len(text).to_bytes(8, "little") + text
    return _stream(first, (tensors[name] for name in names))


def _stream(first: bytes, tensors: Iterable[Tensor]) -> Iterable[bytes | memoryview]:
    yield first
    for tensor in tensors:
        yield memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
