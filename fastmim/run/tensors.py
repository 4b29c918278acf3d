"""Safetensors files: writing piece by piece, and checked reading of files from strangers."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..host.files import open_regular

MAX_TENSORS = 20_000
"""Most tensors in a file.
The largest published models have a thousand tensors, and a few thousand with an optimizer."""
DTYPES = {
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
"""Types that a checkpoint may hold, and their names in the format."""
MAX_NAME = 1_000
"""Most characters of a tensor's name.
Names in published models have up to a hundred characters; wrappers and optimizers add some."""
_MAX_HEADER = 1 << 24  # bytes: 800 per tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file by name. Their bytes are memory-mapped, not read.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is no regular file, is damaged, or describes more tensors than any model has. The message
            does not name the file.
    """
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER:
            raise ValueError(f"expected a safetensors file with a header of at most {_MAX_HEADER} bytes, got {length}")
        try:
            # Opened by the file's number, because the library opens no path that is not UTF-8.
            with safe_open(f"/proc/self/fd/{file.fileno()}", "pt") as opened:
                names = list(opened.keys())
                check_names(names)
                return {name: opened.get_tensor(name) for name in names}
        except (SafetensorError, RuntimeError, LookupError, TypeError) as error:
            raise ValueError("expected a safetensors file, found one that is damaged or of another kind") from error


def check_names(names: Collection[str]) -> None:
    """Checks number and length of tensor names.

    Raises:
        ValueError: there are more tensors, or longer names, than any model has.
    """
    if len(names) > MAX_TENSORS:
        raise ValueError(f"expected at most {MAX_TENSORS} tensors, found {len(names)}")
    if (longest := max(map(len, names), default=0)) > MAX_NAME:
        raise ValueError(f"expected names of tensors of at most {MAX_NAME} characters, found one of {longest}")


def to_bytes(tensors: dict[str, Tensor]) -> Iterable[bytes | memoryview]:
    """Returns the bytes of a safetensors file, piece by piece.

    The library's own writer would copy all tensors at once.

    The file holds the length of the header (uint64, little-endian), the JSON header padded to 8 bytes, and the tensors.
    The widest type comes first, so that each tensor is aligned (https://huggingface.co/docs/safetensors, "Format").

    Raises:
        TypeError: a tensor has a type that the format cannot hold.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise TypeError(f"a checkpoint cannot hold {name} of {tensor.dtype}; it can hold {list(DTYPES)}")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    first = len(text).to_bytes(8, "little") + text
    return _stream(first, (tensors[name] for name in names))


def _stream(first: bytes, tensors: Iterable[Tensor]) -> Iterable[bytes | memoryview]:
    yield first
    for tensor in tensors:
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
