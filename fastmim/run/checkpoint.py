"""Durable files: one checkpoint format (safetensors by parameter name + JSON), written so that a kill, a power cut or a
full disk at any instant leaves the newest finished checkpoint loadable.

May import torch, tensors, runfolder, files, terminal and the standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..host.files import open_regular, output, read_bytes
from ..host.json_files import parse_json, short
from ..host.terminal import shown
from .folder import FolderError
from .tensors import DTYPES, read_tensors, to_bytes

State = dict[str, dict[str, Tensor]]

_FORMAT = 1
_USUAL = ("exp_avg", "exp_avg_sq", "scalars")
_GROUPS = (*_USUAL, "momentum_buffer", "ema")
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_NAME = re.compile(r"step-([0-9]{8,15})(?:\.([0-9]{1,9}))?")
_LEFTOVER = ("tmp-", "trash-")
_MAX_STEP = 10**15
_MAX_JSON = 1 << 22  # bytes of state.json and manifest.json
_LISTED = 5  # problems in an error
_LONGEST = 500  # characters of a problem
_MAX_NAME = 100  # bytes of `latest` that are looked at
_CHUNK = 1 << 24


class CheckpointError(Exception):
    """The system refused a write; earlier checkpoints are untouched and training may go on.

    saved: True if the new checkpoint is there all the same, and only the removal of old ones failed.
    """

    def __init__(self, message: str, saved: bool = False):
        super().__init__(message)
        self.saved = saved


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
        ValueError: an unknown group, `keep` below 1, or a folder that is a link.
        TypeError: a dtype or a value in `meta` that the format cannot hold.
    """
    if unknown := set(state) - {"model", *_GROUPS}:
        raise ValueError(f"a checkpoint holds the groups {('model', *_GROUPS)}, got also {sorted(unknown)}")
    if keep < 1:
        raise ValueError(f"keep must be at least 1 checkpoint, got {keep}")
    optimizer = {f"{group}.{name}": t for group in _GROUPS for name, t in state.get(group, {}).items()}
    contents = {
        "model.safetensors": to_bytes(state["model"]),
        "optimizer.safetensors": to_bytes(optimizer),
        "state.json": [_json({"format": _FORMAT, "step": step, "meta": meta})],
    }
    partial = folder / f"tmp-step-{step:08d}"
    check_own(folder)
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
            f"the checkpoint of step {step} was not saved in {shown(folder)} ({error}); earlier ones are untouched"
        ) from error
    try:
        _prune(folder, path, step, keep)
    except OSError as error:
        raise CheckpointError(
            f"{path} is saved, but older checkpoints could not be removed ({error})", saved=True
        ) from error
    return path


def load(
    folder: Path, report: Callable[[str], object] = print, check: Callable[[Loaded], object] = lambda loaded: None
) -> Loaded | None:
    """Reads the checkpoint that `latest` names if it is as it was written, else the newest one that is.

    Args:
        folder: what was given to `save`.
        report: called with one line for each checkpoint that was passed over: which, why, and which is used instead.
        check: raises ValueError for a checkpoint whose content is of no use.

    Returns: the checkpoint, or None if the folder holds none.
    Raises:
        FolderError: there are checkpoints, but none is valid.
    """
    paths = _newest_first(folder)
    problems = []
    if os.path.lexists(folder / "latest"):
        name = _latest(folder)
        named = [path for path in paths if path.name == name]
        if not named:
            problems.append(f"`latest` names {name[:40]!r}, which is not there")
        paths = named + [path for path in paths if path not in named]
    for path in paths:
        if not (problem := _misfit(path)):
            try:
                loaded = _read(path)
                check(loaded)
            except ValueError as error:
                problem = shown(str(error))[:_LONGEST]
        if problem := problem or _rot(path):
            problems.append(f"checkpoint {path.name} is not valid: {problem}")
            continue
        for line in problems:
            report(f"{line}; using {path.name} instead")
        return loaded
    if problems:
        more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise FolderError(
            f"no valid checkpoint in {shown(folder)}: {'; '.join(problems[:_LISTED])}{more}. To start afresh, choose "
            "another run folder"
        )
    return None


def steps(folder: Path) -> list[int]:
    """Returns the step of each checkpoint in a folder, valid or not, the newest first."""
    return [_order(path)[0] for path in _newest_first(folder)]


def tidy(folder: Path, loaded: Loaded, keep: int) -> None:
    """Finishes what a kill cut short: removes leftovers, and all but `loaded` and the `keep` - 1 before it.

    Raises:
        ValueError: the folder is a link.
    """
    check_own(folder)
    _remove_leftovers(folder)
    _prune(folder, loaded.path, loaded.step, keep)


def check_own(folder: Path) -> None:
    """
    Raises:
        ValueError: the folder is a link, so that checkpoints would be written and removed elsewhere.
    """
    output(folder.parent, folder.name, "latest")


def _latest(folder: Path) -> str:
    """Returns the name in `latest`, or says what is wrong with that file."""
    try:
        return read_bytes(folder / "latest", _MAX_NAME).decode(errors="replace").strip()
    except OSError as error:
        return f"nothing ({error.strerror})"
    except ValueError:
        return "nothing (it is no small file)"


def _read(path: Path) -> Loaded:
    """Reads a checkpoint whose files match its manifest, but may not be fastmim's.

    Raises:
        ValueError: a field or tensor is not as `save` writes it.
    """
    stored = parse_json(read_bytes(path / "state.json", _MAX_JSON))
    state: State = {"model": _tensors(path / "model.safetensors"), **{group: {} for group in _USUAL}}
    for key, tensor in _tensors(path / "optimizer.safetensors").items():
        group, _, name = key.partition(".")
        if group not in _GROUPS:
            raise ValueError(f"optimizer.safetensors: {shown(key[:_MAX_NAME])!r} is of none of the groups {_GROUPS}")
        state.setdefault(group, {})[name] = tensor
    return Loaded(stored["step"], state, stored["meta"], path)


def _tensors(path: Path) -> dict[str, Tensor]:
    """Reads one of a checkpoint's two safetensors files.

    Raises:
        ValueError: it is none, or holds types that `save` does not write.
    """
    try:
        tensors = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{path.name}: {shown(name[:_MAX_NAME])} is of a type that no checkpoint holds")
    return tensors


def _problem(path: Path) -> str | None:
    """Says why a checkpoint cannot be used, or returns None if every byte is as it was written."""
    return _misfit(path) or _rot(path)


def _rot(path: Path) -> str | None:
    """Says which file of a checkpoint without `_misfit` has other bytes than were written, or returns None.

    This check comes last, as it reads everything: a sparse file can be huge and cost its sender nothing.
    """
    try:
        for name, expected in _parsed(read_bytes(path / "manifest.json", _MAX_JSON)).items():
            digest = hashlib.sha256()
            with open_regular(path / name) as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                size = file.tell()
            if {"sha256": digest.hexdigest(), "size": size} != expected:
                return _differs(name, size, expected)
    except OSError as error:
        return f"{shown(Path(error.filename or path).name)} cannot be read ({error.strerror})"
    return None


def _misfit(path: Path) -> str | None:
    """Says which file of a checkpoint is not of the kind and size that it should be, or returns None."""
    try:
        text = read_bytes(path / "manifest.json", _MAX_JSON)
        manifest = _parsed(text)
        # A changed byte that leaves the same JSON value (a space, say) is damage too.
        if not isinstance(manifest, dict) or text != _json(manifest) or sorted(manifest) != sorted(_FILES):
            return "manifest.json is damaged"
        for name, expected in manifest.items():
            with open_regular(path / name) as file:
                if not isinstance(expected, dict) or os.fstat(file.fileno()).st_size != expected.get("size"):
                    return _differs(name, os.fstat(file.fileno()).st_size, expected)
        text = read_bytes(path / "state.json", _MAX_JSON)
        if hashlib.sha256(text).hexdigest() != manifest["state.json"].get("sha256"):
            return _differs("state.json", len(text), manifest["state.json"])
        stored = _parsed(text)
        for name in ("model.safetensors", "optimizer.safetensors"):
            _tensors(path / name)
    except OSError as error:
        return f"{shown(Path(error.filename or path).name)} cannot be read ({error.strerror})"
    except ValueError as error:  # of a pipe, a folder, a huge file
        return str(error).removeprefix(f"{shown(path)}/")
    if not isinstance(stored, dict):
        return "state.json: expected an object"
    if (found := stored.get("format")) != _FORMAT:
        return f"state.json: format is {short(found)}, this version reads {_FORMAT}"
    step = stored.get("step")
    if type(step) is not int or not 0 <= step <= _MAX_STEP:
        return f"state.json: step: expected a number of updates, found {short(step)}"
    if step != _order(path)[0]:
        return f"it holds step {step}, not the step of its name"
    if not isinstance(stored.get("meta"), dict):
        return f"state.json: meta: expected an object, found {short(stored.get('meta'))}"
    return None


def _parsed(text: bytes) -> Any:
    """Returns a JSON value, or None for text that is no JSON."""
    try:
        return parse_json(text)
    except ValueError:
        return None


def _differs(name: str, size: int, expected: Any) -> str:
    written = short(expected.get("size") if isinstance(expected, dict) else expected)
    return f"{name} differs from its manifest (size {size}, written {written})"


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
            _remove(trash)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name.startswith(_LEFTOVER):
            _remove(path)


def _remove(path: Path) -> None:
    """Removes a folder, or a link or file in its place."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else os.unlink(path)


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


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
