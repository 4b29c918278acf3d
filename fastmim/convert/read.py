"""Official checkpoint files as plain tensors: nothing in a file is ever run, and none costs more than its size.

The only module that opens pickles, with torch's restricted reader (`weights_only`). May import torch, tensors, files
and terminal.
"""

from __future__ import annotations

import math
import os
import re
import struct
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ..host.files import open_regular
from ..host.terminal import shown
from ..run.tensors import check_names, read_tensors
from .limits import try_within


class Inert:
    """Stands for an object of a foreign class: takes whatever the file gives it, and keeps nothing."""

    def __new__(cls, *args: Any):
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class InertDict:
    """Stands for a subclass of dict: gives an OrderedDict, the kind of mapping that torch's reader fills."""

    def __new__(cls, *args: Any):
        return OrderedDict(*args)


# What official files hold beside tensors and plain values. None of it needs the library that wrote it.
KNOWN = {
    "argparse.Namespace": Namespace,
    "yacs.config.CfgNode": InertDict,
    "addict.addict.Dict": InertDict,
    "mmcv.utils.config.ConfigDict": InertDict,
    "mmengine.config.config.ConfigDict": InertDict,
    "mmengine.logging.history_buffer.HistoryBuffer": Inert,
    "builtins.getattr": Inert,  # how HistoryBuffer names its methods
    "pathlib.PosixPath": Inert,
    "numpy.dtype": Inert,
    "numpy.ndarray": Inert,
    **{f"numpy.{core}.multiarray.{name}": Inert for core in ("core", "_core") for name in ("scalar", "_reconstruct")},
}
CONTAINERS = (
    *("model", "state_dict", "module", "model_state_dict", "student", "teacher"),
    *("model_ema", "state_dict_ema", "ema", "net"),
)
"""Keys of the weights in what training programs save; the first one there counts."""
_DEEPEST = 4  # containers within containers

_SECONDS, _BYTES_A_SECOND = 3, 200 << 20  # CPU time for what torch reads in Python, and for the weights
_MEMORY = 512 << 20  # beside twice the size of the file

# What torch's reader raises on bytes that mean nothing.
_MALFORMED = (
    UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, AssertionError,
    RecursionError, OverflowError, OSError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class OfficialFile:
    """A file's weights by their official names.

    container: the key that holds them ("model", "state_dict"; dotted if nested), or None where the file holds nothing
        else.
    rest: what else the file holds, by key (optimizer, args, ...).
    """

    container: str | None
    state: dict[str, Tensor]
    rest: dict[Any, Any]


def read_official(path: Path) -> OfficialFile:
    """Reads a safetensors file, or a file of `torch.save` (zip or older) without running anything in it.

    The file is first read in a process of little time and memory, as a few bytes can describe endless work.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no regular file, holds a class that is not in `KNOWN` (which is named) or no tensors, asks for
            more time or memory than its size explains, or cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    try:
        try_within(lambda: _examine(path, size), _SECONDS + size // _BYTES_A_SECOND, 2 * size + _MEMORY)
        return _read(path)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error


def _examine(path: Path, size: int) -> None:
    """Reads a file and checks that its tensors are no larger than it is; called in a process that may be ended.

    Raises:
        ValueError: as `read_official`.
    """
    torch.set_num_threads(1)  # a fork has no others
    if not _is_safetensors(path) and zipfile.is_zipfile(path):
        _check_zip(path, size)
    state = _read(path).state
    for name, tensor in state.items():
        if math.prod(max(side, 1) for side in tensor.shape) * tensor.element_size() > size:
            raise ValueError(
                f"{shown(name[:200])} has the shape {tuple(tensor.shape)}, but the file has only {size} bytes"
            )
    if sum(tensor.nbytes for tensor in state.values()) > 4 * size:
        raise ValueError(f"its tensors have {sum(t.nbytes for t in state.values())} bytes, the file only {size}")


def _check_zip(path: Path, size: int) -> None:
    """
    Raises:
        ValueError: entries are compressed, or overlap; those of `torch.save` never are or do.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _MALFORMED as error:
        raise ValueError("expected a checkpoint of torch.save, found a damaged zip file") from error
    if packed := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]:
        raise ValueError(f"expected a checkpoint of torch.save, found a compressed zip file ({shown(packed[0][:200])})")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError(f"expected a checkpoint of torch.save, found a zip file whose entries exceed its {size} bytes")


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _read(path: Path) -> OfficialFile:
    content = read_tensors(path) if _is_safetensors(path) else _load(path)
    if not isinstance(content, dict):
        raise ValueError(f"expected a dictionary of tensors, found a {type(content).__name__}")
    keys, state = _find(content, _DEEPEST) or _empty(content)
    others = [key for key, value in state.items() if not (isinstance(key, str) and _is_plain(value))]
    if others or not state:
        within = f"under {'.'.join(keys)!r}" if keys else f"(or one of the keys {', '.join(CONTAINERS)})"
        found = f"also {words(others[0])!r}" if others else "none"
        raise ValueError(f"expected a dictionary of tensors {within}, found {found}")
    check_names(state)
    rest = {key: value for key, value in content.items() if key != keys[0]} if keys else {}
    # Detached, a tensor has none of the attributes that a file may put in front of its methods.
    return OfficialFile(".".join(keys) or None, {name: Tensor.detach(value) for name, value in state.items()}, rest)


def _find(content: dict, depth: int) -> tuple[tuple[str, ...], dict] | None:
    """Finds the dictionary that holds the weights: its keys from outside to inside, and itself."""
    inner = [key for key in CONTAINERS if isinstance(content.get(key), dict)]
    for key in inner if depth else ():
        if found := _find(content[key], depth - 1):
            return (key, *found[0]), found[1]
    return ((), content) if any(isinstance(value, Tensor) for value in content.values()) else None


def _empty(content: dict) -> tuple[tuple[str, ...], dict]:
    """The place where the weights should have been."""
    key = next((key for key in CONTAINERS if isinstance(content.get(key), dict)), None)
    return ((), content) if key is None else ((key,), content[key])


def words(key: Any) -> str:
    """A key of a foreign dictionary for a message; only its type if it could be of any length."""
    if isinstance(key, str):
        return shown(key[:200])
    return str(key) if type(key) is int and abs(key) < 1 << 64 else f"a {type(key).__name__}"


def _is_plain(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_meta or value.is_quantized or torch.is_complex(value) or torch.is_neg(value))


def _load(path: Path) -> Any:
    known = [(stub, name) for name, stub in KNOWN.items()]
    zipped = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols; what matters is raised
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except _MALFORMED as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"holds {found[1][:200]}, which is no weight and is never loaded, as it could run code; where you "
                "trust the file, save its weights alone: torch.save({'model': weights}, FILE)"
            ) from error
        if "memory" in str(error):  # torch's allocator has no error of its own
            raise MemoryError from error
        raise ValueError(
            "expected a checkpoint of torch.save, or a .safetensors file; this one is damaged or of another kind"
        ) from error
