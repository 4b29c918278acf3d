"""Decoding of image files from strangers, with limits on memory and time.

Memory and time are estimated from the header before decoding.

`decode_upright` is the only function that opens image files.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import AvifImagePlugin, Image

from fastmim_kernels.reader import File, Header, Reader

MB = 10**6
# Several images are decoded at the same time, so each uses one thread.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Nanoseconds per pixel and per byte of the file, for the slowest contents found in each format, rounded up.
_NANOSECONDS = {
    "jpeg": (10, 20), "png": (8, 6), "webp": (45, 0), "bmp": (8, 0), "tiff": (25, 40), "gif": (12, 5), "avif": (45, 0)
}  # fmt: skip
_SCAN_NANOSECONDS, _SCANNED_BYTE_NANOSECONDS, _RAW_NANOSECONDS, _PART_NANOSECONDS = 1.2, 30, 4, 8_000
_PART_BYTES = 512
_MANY = 1000  # files with more parts have their number of parts in messages
_COPIED_BYTES_A_SECOND = 2e10  # Pillow copies all metadata again for each segment


@dataclass(frozen=True)
class Limits:
    """Limits on the memory and time that decoding one image may take.

    Both are estimated from the header, so every machine accepts the same images.
    """

    memory: int = 500
    """MB, including the file."""
    seconds: float = 2.0

    @property
    def bytes(self) -> int:
        """`memory` in bytes."""
        return self.memory * MB

    @property
    def file_bytes(self) -> int:
        """Size of the largest file that is read, in bytes: half of the memory, because Pillow copies files."""
        return self.bytes // 2

    @property
    def advice(self) -> str:
        """End of the message about a file that is too large."""
        return f", half of data.decode_memory={self.memory}; raise that to use the image"


DEFAULT_LIMITS = Limits()


def readable_header(file: File) -> Header:
    """Returns the header of a file.

    Raises:
        ValueError: the file could not be read; the text is the reason.
    """
    if file.header is None:
        raise ValueError(file.error)
    return file.header


def memory_needed(file: File) -> int:
    """Returns the bytes of memory that decoding a file takes, estimated from its header."""
    header = readable_header(file)
    single = header.channels == 1
    if header.format in ("webp", "avif"):
        per_pixel = 20
    elif single and header.bits > 8:
        per_pixel = 8
    elif header.palette:
        per_pixel = 6
    else:
        # Pillow has one byte for gray and four for colours. The image and a copy of the window exist side by side.
        per_pixel = 2 if single else 8
    if header.orientation > 1:
        per_pixel += 1 if single else 4
    parts = 0 if header.format == "bmp" else header.parts  # the run lengths of a BMP are not kept
    copies = 4 if header.format in ("webp", "avif") else 2  # copies of the file; these decoders take the whole file
    return copies * len(file.data) + header.buffer + _PART_BYTES * parts + per_pixel * header.width * header.height


def seconds_needed(file: File) -> float:
    """Returns the seconds that decoding a file takes, estimated from its header."""
    header = readable_header(file)
    per_pixel, per_byte = _NANOSECONDS[header.format]
    if header.format == "png":
        per_pixel += _RAW_NANOSECONDS * header.channels * header.bits / 8
    if header.scans > 1:
        per_pixel, per_byte = per_pixel + _SCAN_NANOSECONDS * header.scans, _SCANNED_BYTE_NANOSECONDS
    pixels = per_pixel * header.width * header.height
    copies = header.parts * header.metadata / 2 / _COPIED_BYTES_A_SECOND
    return (pixels + per_byte * len(file.data) + _PART_NANOSECONDS * header.parts) / 1e9 + copies


def refusal(file: File, limits: Limits) -> str | None:
    """Returns the reason why a file must not be decoded, by its header alone; None if there is none."""
    if file.error is not None or file.header is None:
        return file.error
    header = file.header
    if header.bits > 16 or header.kind != "unsigned":
        return f"unsupported samples: {_samples(header)} have no defined range to bring to 8 bits"
    if (memory := memory_needed(file)) > limits.bytes:
        return (
            f"too large: decoding {_extent(header)} takes about {memory / MB:.0f} MB, more than "
            f"data.decode_memory={limits.memory}; raise that to use the image"
        )
    if (seconds := seconds_needed(file)) > limits.seconds:
        return (
            f"too slow: decoding {_extent(header)} takes about {seconds:.1f} seconds, more than "
            f"data.decode_seconds={limits.seconds:g}; raise that to use the image"
        )
    return None


def decode_upright(file: File) -> Image.Image:
    """Decodes a file with Pillow and turns the image by its EXIF orientation.

    Args:
        file: the file, inside a `reserved` block.

    Raises:
        ValueError: the file cannot be decoded; the text is the reason, the same in every run.
    """
    header = readable_header(file)
    try:
        # With a fixed format, Pillow never starts an external interpreter, such as Ghostscript, for a disguised file.
        with Image.open(io.BytesIO(file.data.data), formats=(header.format.upper(),)) as image:
            # An image larger than its header says would need more memory than is reserved. The check below refuses it.
            if image.width * image.height == header.width * header.height:
                image.load()
                # Pillow itself turns a TIFF.
                if header.orientation > 1 and image.format != "TIFF":
                    image = image.transpose(_TURNS[header.orientation])
    except Image.UnidentifiedImageError:
        raise ValueError(f"unsupported {header.format.upper()}: {_samples(header)}") from None
    except Exception as error:  # decoders raise errors of any type on damaged files
        raise ValueError(_reason(header, error)) from None
    if (image.height, image.width) != seen_size(file):
        expected = "{1} x {0}".format(*seen_size(file))
        raise ValueError(f"damaged: its header says {expected} pixels, decoded are {image.width} x {image.height}")
    return image


def read_image(path: str | os.PathLike, limits: Limits = DEFAULT_LIMITS) -> File:
    """Reads one image file with its checksum; `File.error` holds the reason if the file is bad."""
    with Reader(1, checksum=True, largest=limits.file_bytes, advice=limits.advice) as reader:
        (file,) = reader.submit([os.fspath(path)], [True]).result()
    return file


def open_image(path: str | os.PathLike, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """Reads and decodes one image file.

    Raises:
        ValueError: the file cannot or must not be decoded; the text is the reason, the same in every run.
    """
    file = read_image(path, limits)
    with reserved(limits, file):
        return decode_upright(file)


def seen_size(file: File) -> tuple[int, int]:
    """Returns the (height, width) in pixels of an image after its EXIF orientation."""
    header = readable_header(file)
    return (header.width, header.height) if header.orientation > 4 else (header.height, header.width)


_SHARE = 4  # memory of all threads together, in limits of one image


class _Used:
    """Memory that all threads use for decoding, and Pillow's own limit before the first thread began."""

    def __init__(self):
        self.bytes = 0
        self.pixels = Image.MAX_IMAGE_PIXELS
        self.changed = threading.Condition()


_used = _Used()
os.register_at_fork(after_in_child=lambda: _used.__init__())  # a child process has none of the threads


@contextlib.contextmanager
def reserved(limits: Limits, *files: File) -> Iterator[None]:
    """Waits for memory to decode files, and reserves the memory inside the `with` block.

    Files are decoded only inside such blocks. All threads of a process together use at most four times the limit of one
    image. Inside the block, Pillow's own limit on pixels is lifted, because that limit ignores formats and settings.

    Args:
        limits: limits on each file.
        files: the files to decode.

    Raises:
        ValueError: a file must not be decoded, or memory runs out; the text is the reason.
    """
    for file in files:
        if reason := refusal(file, limits):
            raise ValueError(reason)
    memory = sum(map(memory_needed, files))
    with _used.changed:
        _used.changed.wait_for(lambda: _used.bytes == 0 or _used.bytes + memory <= _SHARE * limits.bytes)
        if _used.bytes == 0:
            _used.pixels, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _used.bytes += memory
    try:
        yield
    except MemoryError as error:  # in a crop or a resize
        raise ValueError(_reason(readable_header(files[0]), error)) from None
    finally:
        with _used.changed:
            _used.bytes -= memory
            if _used.bytes == 0:
                Image.MAX_IMAGE_PIXELS = _used.pixels
            _used.changed.notify_all()


def _extent(header: Header) -> str:
    scans = f", {header.scans} scans" if header.scans > 1 else ""
    parts = f", {header.parts} parts" if header.parts >= _MANY else ""
    return f"{header.width} x {header.height} pixels{scans}{parts}"


def _samples(header: Header) -> str:
    bands = f"{header.channels} {'band' if header.channels == 1 else 'bands'}"
    return f"{bands} of {header.bits}-bit {header.kind} samples"


def _reason(header: Header, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"no memory is left to decode its {header.width} x {header.height} pixels"
    if "truncated" in str(error).lower():
        return f"truncated: the {header.format.upper()} ends inside its pixels"
    return f"damaged: the {header.format.upper()} cannot be decoded"
