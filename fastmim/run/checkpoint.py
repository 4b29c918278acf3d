"""Checkpoints: durable folders of safetensors (by parameter name) and JSON files.

A kill, a power cut or a full disk at any instant leaves the newest finished checkpoint loadable.
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
"""Tensors by group ("model", moments, "scalars", "ema") and parameter name."""

_FORMAT = 1
_USUAL = ("exp_avg", "exp_avg_sq", "scalars")
_GROUPS = (*_USUAL, "momentum_buffer", "ema")
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_NAME = re.compile(r"step-([0-9]{8,15})(?:\.([0-9]{1,9}))?")
_LEFTOVER = ("tmp-", "trash-")
_MAX_STEP = 10**15
_MAX_JSON = 1 << 22  # bytes of state.json and manifest.json
_LISTED = 5  # problems that an error lists
_LONGEST = 500  # characters of a problem
_MAX_NAME = 100  # bytes of `latest` that are read
_CHUNK = 1 << 24


class CheckpointError(Exception):
    """Error: the system refused a write. Earlier checkpoints are untouched, and training may continue.

    Attributes:
        saved: True if the new checkpoint is complete, and only the removal of old checkpoints failed.
    """

    def __init__(self, message: str, saved: bool = False):
        super().__init__(message)
        self.saved = saved


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A verified checkpoint.

    Attributes:
        step: updates done.
        state: tensors as they were passed to `save`.
        meta: JSON values as they were passed to `save`.
        path: folder of the checkpoint.
    """

    step: int
    state: State
    meta: dict[str, Any]
    path: Path


def save(folder: Path, step: int, state: State, meta: dict[str, Any], keep: int) -> Path:
    """Writes a checkpoint, then removes old checkpoints and leftovers of crashes.

    All files are written and fsynced in a folder with a temporary name. Then the folder gets its final name, and
    `latest` gets this name. Old checkpoints are removed only after that. A second checkpoint of a step is written
    beside the first (`step-00000123.2`). Checkpoints of later steps belong to abandoned training, and are removed
    first.

    Args:
        folder: folder of the run's checkpoints; made if missing.
        step: updates done.
        state: tensors by group ("model" and any of `_GROUPS`) and parameter name.
        meta: values that JSON can hold.
        keep: number of valid checkpoints to keep, including the new one.

    Returns:
        The folder of the new checkpoint.

    Raises:
        CheckpointError: the system refused (disk full, ...). No partial checkpoint is left; try again at the next save.
        ValueError: a group is unknown, `keep` is below 1, or the folder is a link.
        TypeError: the format cannot hold a dtype, or a value in `meta`.
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
    folder: Path,
    report: Callable[[str], object] = print,
    check: Callable[[LoadedCheckpoint], object] = lambda loaded: None,
) -> LoadedCheckpoint | None:
    """Reads the checkpoint that `latest` names. If it is damaged, reads the newest valid checkpoint.

    Args:
        folder: folder of the run's checkpoints.
        report: function that receives a line for each invalid checkpoint.
        check: function that raises ValueError for a checkpoint with unusable content.

    Returns:
        The checkpoint, or None if the folder holds none.

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
        found = _valid(path, check)
        if isinstance(found, str):
            problems.append(f"checkpoint {path.name} is not valid: {found}")
            continue
        for line in problems:
            report(f"{line}; using {path.name} instead")
        return found
    if problems:
        more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise FolderError(
            f"no valid checkpoint in {shown(folder)}: {'; '.join(problems[:_LISTED])}{more}. To start afresh, choose "
            "another run folder"
        )
    return None


def _valid(path: Path, check: Callable[[LoadedCheckpoint], object]) -> LoadedCheckpoint | str:
    """Reads a checkpoint, or returns the reason why the checkpoint is not valid."""
    if problem := _misfit(path):
        return problem
    try:
        loaded = _read(path)
        check(loaded)
    except ValueError as error:
        return shown(str(error))[:_LONGEST]
    return _rot(path) or loaded


def steps(folder: Path) -> list[int]:
    """Returns the step of each checkpoint in a folder, valid or not, newest first."""
    return [_order(path)[0] for path in _newest_first(folder)]


def tidy(folder: Path, loaded: LoadedCheckpoint, keep: int) -> None:
    """Removes leftovers of a kill, and all checkpoints except `loaded` and the `keep` - 1 earlier ones.

    Raises:
        ValueError: the folder is a link.
    """
    check_own(folder)
    _remove_leftovers(folder)
    _prune(folder, loaded.path, loaded.step, keep)


def check_own(folder: Path) -> None:
    """Checks that the folder is no link, which would lead writes and removals elsewhere.

    Raises:
        ValueError: the folder is a link.
    """
    output(folder.parent, folder.name, "latest")


def _latest(folder: Path) -> str:
    """Returns the name in `latest`, or a phrase about the problem with that file."""
    try:
        return read_bytes(folder / "latest", _MAX_NAME).decode(errors="replace").strip()
    except OSError as error:
        return f"nothing ({error.strerror})"
    except ValueError:
        return "nothing (not a small file)"


def _read(path: Path) -> LoadedCheckpoint:
    """Reads a checkpoint whose files match its manifest. A stranger may have made the checkpoint.

    Raises:
        ValueError: `save` would not write one of the fields or tensors.
    """
    stored = parse_json(read_bytes(path / "state.json", _MAX_JSON))
    state: State = {"model": _tensors(path / "model.safetensors"), **{group: {} for group in _USUAL}}
    for key, tensor in _tensors(path / "optimizer.safetensors").items():
        group, _, name = key.partition(".")
        if group not in _GROUPS:
            raise ValueError(f"optimizer.safetensors: {shown(key[:_MAX_NAME])!r} is of none of the groups {_GROUPS}")
        state.setdefault(group, {})[name] = tensor
    return LoadedCheckpoint(stored["step"], state, stored["meta"], path)


def _tensors(path: Path) -> dict[str, Tensor]:
    """Reads one of the two safetensors files of a checkpoint.

    Raises:
        ValueError: the file is damaged, or holds types that `save` does not write.
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
    """Returns the reason why a checkpoint cannot be used, or None if every byte is intact."""
    return _misfit(path) or _rot(path)


def _rot(path: Path) -> str | None:
    """Returns a message about the first file whose bytes differ from the manifest's hash, or None.

    This check reads every byte, so `_misfit`, which compares the sizes, runs first. A checkpoint of a stranger could
    hold a huge sparse file, which takes no disk space but hours to read.
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
    """Returns a message about a file of a checkpoint with an unexpected kind or structure, or None."""
    try:
        text = read_bytes(path / "manifest.json", _MAX_JSON)
        manifest = _parsed(text)
        # A changed byte that leaves the same JSON value, such as a space, is damage too.
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
    except ValueError as error:  # a pipe, a folder, a huge file
        return str(error).removeprefix(f"{shown(path)}/")
    if not isinstance(stored, dict):
        return "state.json: expected an object"
    if (found := stored.get("format")) != _FORMAT:
        return f"state.json: format is {short(found)}, this version reads {_FORMAT}"
    step = stored.get("step")
    if type(step) is not int or not 0 <= step <= _MAX_STEP:
        return f"state.json: step: expected a number of updates, found {short(step)}"
    if step != _order(path)[0]:
        return f"state.json holds step {step}, not the step of the folder's name"
    if not isinstance(stored.get("meta"), dict):
        return f"state.json: meta: expected an object, found {short(stored.get('meta'))}"
    return None


def _parsed(text: bytes) -> Any:
    """Returns a JSON value, or None if the text is no JSON."""
    try:
        return parse_json(text)
    except ValueError:
        return None


def _differs(name: str, size: int, expected: Any) -> str:
    """Returns the message about a file that differs from its entry in the manifest."""
    written = short(expected.get("size") if isinstance(expected, dict) else expected)
    return f"{name} differs from its manifest (size {size}, written {written})"


def _prune(folder: Path, newest: Path, step: int, keep: int) -> None:
    """Removes every checkpoint except `newest` and the `keep` - 1 earlier valid checkpoints."""
    others = [path for path in _newest_first(folder) if path != newest]
    # The new checkpoint replaces others of the same step. Checkpoints of later steps come last. Sorting is stable, so
    # the rest stays newest first.
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
    """Removes partial and half-deleted checkpoints."""
    for path in folder.iterdir():
        if path.name.startswith(_LEFTOVER):
            _remove(path)


def _remove(path: Path) -> None:
    """Removes a folder, or a link or file in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_order, reverse=True)


def _order(path: Path) -> tuple[int, int]:
    """Returns (step, number of the save) from the name of a checkpoint, step-STEP or step-STEP.N."""
    step, _, generation = path.name.removeprefix("step-").partition(".")
    return int(step), int(generation or 1)


def _free_name(folder: Path, step: int) -> Path:
    """Returns the path of a new checkpoint of a step."""
    taken = [generation for s, generation in map(_order, _newest_first(folder)) if s == step]
    return folder / (f"step-{step:08d}" + (f".{max(taken) + 1}" if taken else ""))


def _make_folder(folder: Path) -> None:
    """Makes a folder and its missing parent folders, durably."""
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
    """Writes a new file durably; returns its manifest entry, hashed while writing."""
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
