"""Small weight files that ask for endless time, huge memory or foreign code, written byte by byte."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

MAGIC = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
TENSOR = (  # of one float32 in storage "0", as pickled by torch.save
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpu%b%btQK\x00%b%b\x89ccollections\nOrderedDict\n)RtR"
)


def number(value: int) -> bytes:
    """Pickles an integer of any size up to 63 bits."""
    return b"\x8a\x08" + struct.pack("<q", value)


def numbers(*values: int) -> bytes:
    """Pickles a tuple of integers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def text(value: str) -> bytes:
    """Pickles a string."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(shape: tuple[int, ...] = (1,), strides: tuple[int, ...] = (1,), stored: int = 1, end: bytes = b"") -> bytes:
    """Pickles a tensor; `end` is the last part of its storage in the old format."""
    return TENSOR % (number(stored), end, numbers(*shape), numbers(*strides))


def zipped(content: bytes, compressed: bool = False) -> bytes:
    """Returns a file of torch.save with this pickle and a storage of one float."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, entry in {"data.pkl": content, "byteorder": b"little", "data/0": bytes(4), "version": b"3\n"}.items():
            archive.writestr(f"a/{name}", entry)
    return file.getvalue()


def legacy(content: bytes, storage: bytes = b"") -> bytes:
    """Returns a file of torch.save in its format before zip files."""
    return b"".join(pickle.dumps(part, 2) for part in MAGIC) + content + pickle.dumps(["0"], 2) + storage


def nested(deep: int) -> bytes:
    """Pickles a tuple whose hash takes 2 ** deep steps."""
    return b"K\x01q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(deep))


def named(entries: dict[str, bytes]) -> bytes:
    """Pickles a dictionary of pickled values."""
    return b"\x80\x02}(" + b"".join(text(name) + entry for name, entry in entries.items()) + b"u."


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Returns a safetensors file with any header, or any length of it."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def tar() -> bytes:
    """Returns an archive of the first format of torch.save."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle", "sys_info"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"\x80\x02N."))
    return file.getvalue()


def repeated(function: bytes, argument: bytes, times: int) -> bytes:
    """Pickles a list of results of one function on one argument that is stored once."""
    return b"\x80\x02" + function + b"q\x00" + argument + b"q\x01](" + b"h\x00h\x01\x85R" * times + b"e."


def write_all(folder: Path) -> dict[str, Path]:
    """Writes one file of each kind, and returns the files by their fault."""
    many, pair = 25_000, b"](" + b"K\x01K\x02\x86" * 50_000 + b"e"
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    files = {
        "a hash without end beside weights.pth": zipped(
            b"\x80\x02" + nested(60) + b"}(" + text("model") + b"}" + text("w") + tensor() + b"sh\x3cK\x01u."
        ),
        "a compressed zip.pth": zipped(named({"w": tensor()}) + bytes(1_000_000), compressed=True),
        "a storage of 3 GB in the old format.pth": legacy(named({"w": tensor(stored=800_000_000, end=b"N")}), bytes(8)),
        "an expanded tensor.pth": zipped(named({"w": tensor((50_000, 50_000), (0, 0))})),
        "an empty tensor with a huge side.pth": zipped(named({"w": tensor((0, 1 << 40), (1, 1))})),
        "negative sides.pth": zipped(named({"w": tensor((-1, -4), (1, 1))})),
        "strides beyond the storage.pth": zipped(named({"w": tensor((2, 2), (1 << 60, 1 << 60))})),
        "too many tensors.pth": zipped(b"\x80\x02" + tensor() + b"q\x00}("
            + b"".join(text(f"w{i}") + b"h\x00" for i in range(many)) + b"u."),
        "one function, many times.pth": zipped(repeated(b"ccollections\nOrderedDict\n", pair, 10_000)),
        "endless bytes.pth": zipped(repeated(b"c__builtin__\nbytearray\n", number(1 << 36), 1)),
        "many bytes.pth": zipped(repeated(b"c__builtin__\nbytearray\n", number(1 << 28), 100)),
        "a name of 100,000 characters.pth": zipped(named({"w" * 100_000: tensor()})),
        "a name of 100,000 characters.safetensors": safetensors({"w" * 100_000: entry}, bytes(4)),
        "deeply nested.pth": zipped(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."),
        "deeply nested weights.pth": zipped(b"\x80\x02" + (b"}" + text("model")) * 9999 + b"}" + b"s" * 9999 + b"."),
        "a dictionary that holds itself.pth": zipped(b"\x80\x02}q\x00" + text("model") + b"h\x00s."),
        "a huge number as a key.pth": zipped(
            b"\x80\x02}\x8b" + struct.pack("<I", 100_000) + b"\x01" * 100_000 + b"K\x01s."
        ),
        "the oldest format.pth": tar(),
        "the end of the central directory.pth": zipped(named({"w": tensor()}))[:-30],
        "nothing.pth": b"",
        "text.pth": b"<html>404</html>",
        "a header of 2 ** 60 bytes.safetensors": safetensors(b"{}", length=1 << 60),
        "a header of 100 MB.safetensors": safetensors(b"{}" + b" " * (1 << 25)),
        "deeply nested.safetensors": safetensors(b"[" * 100_000),
        "too many tensors.safetensors": safetensors({f"w{i}": entry | {"shape": [0], "data_offsets": [0, 0]}
            for i in range(many)}),
        "truncated.safetensors": safetensors({"w": entry}, bytes(3)),
        "overlapping.safetensors": safetensors({"v": entry, "w": entry}, bytes(4)),
        "huge and empty.safetensors": safetensors({"w": entry | {"shape": [0, 1 << 50], "data_offsets": [0, 0]}}),
        "of an unknown type.safetensors": safetensors({"w": entry | {"dtype": "X9"}}, bytes(4)),
        "complex.safetensors": safetensors({"w": entry | {"dtype": "C64", "data_offsets": [0, 8]}}, bytes(8)),
        "nothing.safetensors": b"",
        "no tensors.safetensors": safetensors({}),
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in files}


def sound() -> list[bytes]:
    """Returns intact files made by the same functions, so that each hostile file has only the fault in its name."""
    old = legacy(named({"w": tensor(end=b"N")}), struct.pack("<q", 1) + bytes(4))
    return [zipped(named({"w": tensor()})), old]
