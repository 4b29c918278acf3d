"""PNG files of fastmim, written whole and never through a link."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..host.files import open_regular, output, writing

_KEYWORD, _PROGRAM = "Software", "fastmim"
_START = 256  # bytes of a file that hold its header and the keyword


def save_png(image: Image.Image, folder: Path, *names: str) -> Path:
    """Writes a picture, creating its folder, and returns its path.

    Args:
        image: the picture.
        folder: the folder that the user named.
        names: folders below it, then the file.

    Raises:
        OSError: the picture cannot be written.
        ValueError: the path leads out of `folder`, or is a folder, pipe or device.
    """
    path, mark = output(folder, *names), PngInfo()
    mark.add_text(_KEYWORD, _PROGRAM)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as file:
        image.save(file, "PNG", pnginfo=mark, optimize=True)
    return path


def is_ours(path: Path) -> bool:
    """True if `save_png` wrote this file."""
    with open_regular(path) as file:
        return f"{_KEYWORD}\0{_PROGRAM}".encode() in file.read(_START)
