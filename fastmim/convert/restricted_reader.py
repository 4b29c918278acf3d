"""Reader of official checkpoint files that runs no code in a file, with limits on time and memory.

The size of a file sets the limits. No other module opens pickles; this module uses torch's restricted unpickler
(`weights_only`).
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
from ..host.json_files import short
from ..host.terminal import shown
from ..run.tensors import check_names, read_tensors
from .resource_limits import try_within


class Inert:
    """Stand-in for an object of a foreign class, which accepts and drops all arguments and state."""

    def __new__(cls, *args: Any):
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class InertDict:
    """Stand-in for a subclass of dict: an OrderedDict, which torch's unpickler can fill."""

    def __new__(cls, *args: Any):
        return OrderedDict(*args)


KNOWN = {
    "argparse.Namespace": Namespace,
    "yacs.config.CfgNode": InertDict,
    "addict.addict.Dict": InertDict,
    "mmcv.utils.config.ConfigDict": InertDict,
    "mmengine.config.config.ConfigDict": InertDict,
    "mmengine.logging.history_buffer.HistoryBuffer": Inert,
    "builtins.getattr": Inert,  # HistoryBuffer refers to its methods through getattr
    "pathlib.PosixPath": Inert,
    "numpy.dtype": Inert,
    "numpy.ndarray": Inert,
    **{f"numpy.{core}.multiarray.{name}": Inert for core in ("core", "_core") for name in ("scalar", "_reconstruct")},
}
"""Classes that official files hold beside tensors and plain values, and their stand-ins.

No library that wrote a file is needed to read it.
"""
CONTAINERS = (
    *("model", "state_dict", "module", "model_state_dict", "student", "teacher"),
    *("model_ema", "state_dict_ema", "ema", "net"),
)
"""Keys of the weights in the files of training programs; the first key found in a file is used."""
_DEEPEST = 4  # containers within containers

_SECONDS = 3  # CPU time for the part of torch's reader that is written in Python
_BYTES_A_SECOND = 200 << 20  # for the weights
_MEMORY = 512 << 20  # bytes beside twice the size of the file

# Exceptions of torch's reader on damaged files.
_MALFORMED = (
    UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, AssertionError,
    RecursionError, OverflowError, OSError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class OfficialFile:
    """Content of a checkpoint file.

    Attributes:
        container: key of the weights ("model", "state_dict"; dotted if nested). None = the file holds nothing else.
        state: the weights by their official names.
        rest: the other content of the file, by key (optimizer, args, ...).
    """

    container: str | None
    state: dict[str, Tensor]
    rest: dict[Any, Any]


def read_official(path: Path) -> OfficialFile:
    """Reads a safetensors file, or a file of `torch.save` (zip or older), without running anything in it.

    A trial in a process of limited time and memory comes first, because a few bytes can describe endless work.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the path is not a regular file; or the file is damaged, holds no tensors or a class that is not in
            `KNOWN` (the message names the class), or asks for more time or memory than its size explains.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    try:
        try_within(lambda: _examine(path, size), _SECONDS + size // _BYTES_A_SECOND, 2 * size + _MEMORY)
        return _read(path)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error


def _examine(path: Path, size: int) -> None:
    """Reads a file in the process of the trial, and checks that its tensors are no larger than the file.

    Raises:
        ValueError: as `read_official`.
    """
    torch.set_num_threads(1)  # torch's thread pool does not survive a fork
    if not _is_safetensors(path) and zipfile.is_zipfile(path):
        _check_zip(path, size)
    state = _read(path).state
    for name, tensor in state.items():
        if math.prod(max(side, 1) for side in tensor.shape) * tensor.element_size() > size:
            raise ValueError(f"{short(name)} has the shape {tuple(tensor.shape)}, but the file has only {size} bytes")
    if sum(tensor.nbytes for tensor in state.values()) > 4 * size:
        raise ValueError(
            f"its tensors have {sum(t.nbytes for t in state.values())} bytes, but the file has only {size}"
        )


def _check_zip(path: Path, size: int) -> None:
    """Checks that no entries of a zip file are compressed or overlap.

    `torch.save` writes no such entries.

    Raises:
        ValueError: an entry is compressed, entries overlap, or the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _MALFORMED as error:
        raise ValueError("expected a checkpoint of torch.save, found a damaged zip file") from error
    if packed := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]:
        raise ValueError(f"expected a checkpoint of torch.save, found a compressed zip file ({short(packed[0])})")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError(f"expected a checkpoint of torch.save, found a zip file whose entries exceed its {size} bytes")


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _read(path: Path) -> OfficialFile:
    content = read_tensors(path) if _is_safetensors(path) else _load(path)
    if not isinstance(content, dict):
        raise ValueError(f"expected a dictionary of tensors, found a {type(content).__name__}")
    keys, state = _find(content, _DEEPEST) or _place_of_weights(content)
    others = [key for key, value in state.items() if not (isinstance(key, str) and _is_plain(value))]
    if others or not state:
        within = f"under {'.'.join(keys)!r}" if keys else f"(or one of the keys {', '.join(CONTAINERS)})"
        found = f"also {short(others[0])}" if others else "none"
        raise ValueError(f"expected a dictionary of tensors {within}, found {found}")
    check_names(state)
    rest = {key: value for key, value in content.items() if key != keys[0]} if keys else {}
    # A file can give a tensor attributes that hide its methods. `Tensor.detach` returns a tensor without them.
    return OfficialFile(".".join(keys) or None, {name: Tensor.detach(value) for name, value in state.items()}, rest)


def _find(content: dict, depth: int) -> tuple[tuple[str, ...], dict] | None:
    """Returns the dictionary that holds the weights, after the keys that lead to it, the outermost first."""
    inner = [key for key in CONTAINERS if isinstance(content.get(key), dict)]
    for key in inner if depth else ():
        if found := _find(content[key], depth - 1):
            return (key, *found[0]), found[1]
    return ((), content) if any(isinstance(value, Tensor) for value in content.values()) else None


def _place_of_weights(content: dict) -> tuple[tuple[str, ...], dict]:
    """Returns the place in a file without weights where the weights are expected, as `_find` does."""
    key = next((key for key in CONTAINERS if isinstance(content.get(key), dict)), None)
    return ((), content) if key is None else ((key,), content[key])


def _is_plain(value: Any) -> bool:
    """True if a value is a dense tensor with its data in memory."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_meta or value.is_quantized or torch.is_complex(value) or torch.is_neg(value))


def _load(path: Path) -> Any:
    known: list[Any] = [(stand_in, name) for name, stand_in in KNOWN.items()]
    zipped = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings are about old protocols; errors are raised
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except _MALFORMED as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"holds {found[1][:200]}, which is no weight and is never loaded, as it could run code; if you trust "
                "the file, save its weights alone: torch.save({'model': weights}, FILE)"
            ) from error
        if "memory" in str(error):  # torch's allocator raises RuntimeError when memory runs out
            raise MemoryError from error
        raise ValueError(
            "expected a checkpoint of torch.save, or a .safetensors file; this file is damaged or of another kind"
        ) from error
