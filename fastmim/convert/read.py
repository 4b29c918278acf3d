"""Official checkpoint files as plain tensors; nothing that a file says is ever run.

The only module that opens pickles, with torch's restricted reader (`weights_only`). May import torch and safetensors.
"""

from __future__ import annotations

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
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


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
CONTAINERS = ("model", "state_dict")

# What torch's reader raises on bytes that mean nothing.
_MALFORMED = (
    UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, AssertionError,
    struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class OfficialFile:
    """A file's weights by their official names.

    container: the key that holds them ("model", "state_dict"), or None where the file holds nothing else.
    rest: what else the file holds, by key (optimizer, args, ...).
    """

    container: str | None
    state: dict[str, Tensor]
    rest: dict[str, Any]


def read_official(path: Path) -> OfficialFile:
    """Reads a safetensors file, or a file of `torch.save` (zip or older) without running anything in it.

    Raises:
        ValueError: it holds a class that is not in `KNOWN` (which is named), no tensors, or cannot be read.
    """
    if path.suffix == ".safetensors":
        try:
            return OfficialFile(None, load_file(path), {})
        except SafetensorError as error:
            raise ValueError(f"{path}: expected a safetensors file ({error})") from error
    content = _load(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dictionary of tensors, found a {type(content).__name__}")
    container = next((key for key in CONTAINERS if isinstance(content.get(key), dict)), None)
    state = content if container is None else content[container]
    others = [str(key) for key, value in state.items() if not (isinstance(key, str) and _is_plain(value))]
    if others or not state:
        within = f"under {container!r}" if container else f"(or one of the keys {', '.join(CONTAINERS)})"
        raise ValueError(
            f"{path}: expected a dictionary of tensors {within}, found " + (f"also {others[0]!r}" if others else "none")
        )
    rest = {} if container is None else {key: value for key, value in content.items() if key != container}
    return OfficialFile(container, dict(state), rest)


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_meta or value.is_quantized)


def _load(path: Path) -> Any:
    known = [(stub, name) for name, stub in KNOWN.items()]
    with open(path, "rb"):  # a file that cannot be opened is not a malformed one
        zipped = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols; what matters is raised
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except _MALFORMED as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{path}: holds {found[1]}, which is no weight and is never loaded, as it could run code; where you "
                "trust the file, save its weights alone: torch.save({'model': weights}, FILE)"
            ) from error
        line = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ValueError(f"{path}: expected a checkpoint of torch.save, or a .safetensors file ({line})") from error
