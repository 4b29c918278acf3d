"""Search for image files below a folder or in a list file. Other files are counted by reason.

Standard library only.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..host.files import open_regular
from ..host.terminal import shown

EXTENSIONS = frozenset({"jpg", "jpeg", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "avif"})
"""Extensions of images. Files with these extensions are listed without opening them."""
MAX_LABEL = 10**6
"""Labels of list files are below this number."""

Entry = tuple[str, int]
"""Relative path and size in bytes of a file."""
_Result = TypeVar("_Result")

# Extensions of files that are left out without opening them: text, archives, weights, sound and video; raw pictures of
# cameras and microscopes, which begin like a TIFF but hold more than Pillow shows; unfinished downloads and backups.
_UNOPENED = (
    "txt json jsonl csv tsv xml yaml yml toml ini cfg md rst html htm log tex pdf doc docx xls xlsx "
    "py ipynb sh c cpp h js css tar zip gz tgz xz bz2 zst 7z rar npy npz pkl pt pth safetensors onnx h5 hdf5 mat "
    "parquet arrow db sqlite lmdb mdb idx rec tfrecord bin cls wav mp3 flac ogg mp4 avi mov mkv webm mpg "
    "nef cr2 cr3 arw dng orf rw2 pef srw raf svs ndpi scn vms part crdownload tmp bak swp lock"
)
_OTHERS = frozenset(_UNOPENED.split())
_OWN = frozenset({"manifest.json", "bad_files.jsonl"})  # files that `fastmim doctor` writes into the folder
_HEAD = 64  # bytes at the start of a file that are compared with the signatures below
_IMAGES = (
    (0, b"\xff\xd8\xff"),
    (0, b"\x89PNG\r\n\x1a\n"),
    (8, b"WEBP"),
    (0, b"GIF87a"),
    (0, b"GIF89a"),
    *((0, magic) for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (4, b"ftypavif"),
    (4, b"ftypavis"),
)
_UNREAD = (
    (4, b"jP  \r\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"JXL \r\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"8BPS", "Photoshop"),
)
_ARCHIVES = (
    (257, b"ustar"),
    (0, b"PK\3\4"),
    (0, b"\x1f\x8b"),
    (0, b"\xfd7zXZ"),
    (0, b"7z\xbc\xaf"),
    (0, b"\x28\xb5\x2f\xfd"),
    (0, b"BZh"),
)
_ENCODINGS = (  # byte order marks; longer marks first
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_PLAIN = bytes({*range(32, 256), *b"\t\r\n\f"})  # bytes of text, in any encoding
_LONGEST = 2**15  # characters of a line in a list file; a path has 4,096 at most

_NAMED = 6  # most reasons in a message
_LONG = 10  # seconds between lines about the progress
_TRANSIENT = frozenset({errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ENOTCONN, errno.ETIMEDOUT})
_PAUSES = (0.05, 0.2, 1.0)  # seconds


def scan_folder(root: str, say: Callable[[str], None] = lambda line: None) -> tuple[list[Entry], Counter[str]]:
    """Lists every image below a folder.

    Args:
        root: path of the folder.
        say: takes a line about the first link that leads out of the folder, and lines about the progress.

    Returns:
        The images and the unreadable folders (with a slash at the end), in any order; and the number of other files, by
        reason.

    Raises:
        OSError: `root` itself cannot be read.
        ValueError: there are no images.
    """
    found: list[Entry] = []
    unread: list[Entry] = []
    left_out: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    # Real folders come before links to folders, so that an image gets its real path if possible.
    folders, links = [""], []
    inside, told, patience = os.path.join(os.path.realpath(root), ""), False, time.monotonic() + _LONG
    while folders or links:
        linked = not folders
        prefix = links.pop(0) if linked else folders.pop()
        folder = os.path.join(root, prefix)
        if linked and not told and not (target := os.path.realpath(folder)).startswith(inside):
            say(f"{shown(prefix[:-1])} is a link out of the folder, to {shown(target)}: images there are listed too")
            told = True
        if time.monotonic() > patience:
            say(f"still listing: {len(found)} images in {len(seen)} folders so far, now in {shown(prefix)}")
            patience = time.monotonic() + _LONG
        try:
            status = _retried(os.stat, folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            entries = _retried(_entries, folder)
        except OSError as error:
            if not prefix:
                raise OSError(f"{shown(root)} cannot be read: {error.strerror}") from error
            unread.append((prefix, 0))
            continue
        seen.add((status.st_dev, status.st_ino))
        new_links = []
        for entry in entries:
            if entry.name.startswith("."):
                left_out["hidden"] += 1
                continue
            mode, size = _look(entry)
            if stat.S_ISDIR(mode):
                (new_links if entry.is_symlink() else folders).append(f"{prefix}{entry.name}/")
            elif (reason := _refusal(entry, mode)) is None:
                found.append((prefix + entry.name, size))
            elif prefix or entry.name not in _OWN:
                left_out[reason] += 1
        links += sorted(new_links, key=os.fsencode)
    if not found:
        count = f"{len(seen)} folder" + "s" * (len(seen) > 1)
        failed = f", {len(unread)} more cannot be read, such as {shown(unread[0][0])}" if unread else ""
        raise ValueError(
            f"no images in {shown(root)}: looked for {', '.join(sorted(EXTENSIONS))} in {count}{failed} "
            f"and saw {left_out.total()} other files" + (f" ({describe_reasons(left_out)})" if left_out else "")
        )
    return found + unread, left_out


def scan_list(path: str) -> tuple[list[Entry], list[int] | None, Counter[str]]:
    """Lists the images that a text file names.

    The text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. If a path has backslashes and there is no such file,
    slashes are tried.

    Args:
        path: path of the text file.

    Returns: the images in the order of the lines; their labels, if any; and the number of repeated lines, by reason.

    Raises:
        FileNotFoundError: none of the files in the list exists.
        OSError: the list cannot be read.
        ValueError: the file is not a list, or labels are not numbers, are missing on some lines, or contradict.
    """
    folder = os.path.dirname(path)
    entries: dict[str, tuple[int, int | None, int]] = {}  # name: (bytes, label, line)
    left_out: Counter[str] = Counter()
    lost: tuple[int, str, str] | None = None
    present = False
    for number, line in _lines(path):
        name, label = _name_and_label(folder, line)
        # No file name holds a zero byte. The escaped name is listed as a missing file.
        name = shown(name) if "\0" in name else name
        full, size = _find(folder, name)
        name = os.path.relpath(full, folder) if full.startswith(os.path.join(folder, "")) else full
        if size is None:
            lost = lost or (number, full, line)
        present = present or size is not None
        if name in entries:
            if (other := entries[name])[1] != label:
                raise ValueError(
                    f"{shown(path)}, line {number}: {shown(name)} has label {label}, but {other[1]} on line {other[2]}"
                )
            left_out["named twice"] += 1
            continue
        entries[name] = size or 0, label, number
    if not entries:
        raise ValueError(f"no images in {shown(path)}: expected the path of one a line")
    bare = [number for _, label, number in entries.values() if label is None]
    if lost and (not present or len(bare) < len(entries)):
        _check_label(path, folder, lost[0], lost[2])
    if lost and not present:
        raise FileNotFoundError(
            f"{shown(path)}: none of the {len(entries)} files that it names is there, such as {shown(lost[1])} on "
            f"line {lost[0]}; expected the path of an image a line, absolute or relative to {shown(folder)}, "
            "optionally followed by white space and a label"
        )
    if bare and len(bare) < len(entries):
        raise ValueError(
            f"{shown(path)}: {len(entries) - len(bare)} of {len(entries)} lines have a label, line {bare[0]} has none; "
            "expected all of them or none"
        )
    found = [(name, size) for name, (size, _, _) in entries.items()]
    labels = [label for _, label, _ in entries.values() if label is not None]
    return found, labels or None, left_out


def describe_reasons(left_out: Counter[str]) -> str:
    """Describes the most frequent reasons for leaving files out, each with its number of files."""
    ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[_NAMED:])
    words = [f"{count} {reason}" for reason, count in ordered[:_NAMED]]
    return ", ".join(words + [f"{rest} for other reasons"] * (rest > 0))


def is_image(name: str) -> bool:
    """True if the name ends in one of `EXTENSIONS`, in any case."""
    return _extension(name) in EXTENSIONS


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _retried(call: Callable[..., _Result], *arguments: object) -> _Result:
    """Calls a function, again after a pause if a disk or server fails in a way that may be temporary."""
    for pause in _PAUSES:
        try:
            return call(*arguments)
        except OSError as error:
            if error.errno not in _TRANSIENT:
                raise
        time.sleep(pause)
    return call(*arguments)


def _entries(folder: str) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return list(entries)


def _look(entry: os.DirEntry) -> tuple[int, int]:
    """Returns mode and bytes of a folder entry, after following a link.

    The bytes are 0 if the entry cannot be examined.
    """
    try:
        status = _retried(os.stat, entry.path)
    except OSError:
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
        except OSError:
            is_folder = False
        return (stat.S_IFDIR if is_folder else stat.S_IFREG), 0
    return status.st_mode, status.st_size


def _refusal(entry: os.DirEntry, mode: int) -> str | None:
    """Returns the reason why a file is not listed; None if the file is an image.

    The words fit after a number.
    """
    # Opening a pipe called x.jpg would wait for ever.
    if not stat.S_ISREG(mode):
        return "pipes, sockets or devices"
    extension = _extension(entry.name)
    if extension in EXTENSIONS:
        return None
    if entry.name.endswith("~"):
        return "backups (~)"
    if extension in _OTHERS and "." in entry.name:
        return f".{extension}"
    try:
        with _retried(open_regular, entry.path) as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return "unreadable, without the extension of an image"
    if _is_image(head):
        return None
    kind = next((kind for at, magic, kind in _UNREAD if head.startswith(magic, at)), None)
    if kind is None:
        return "without image content"
    short = extension.isascii() and extension.isalnum() and len(extension) < 6 and "." in entry.name
    return f".{extension} ({kind})" if short else kind


def _is_image(head: bytes) -> bool:
    if any(head.startswith(magic, at) for at, magic in _IMAGES):
        return not head.startswith(b"RIFF") or head.startswith(b"WEBP", 8)
    return head.startswith(b"BM") and head[6:10] == bytes(4)  # four reserved bytes; "BM" alone is too common


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Yields number and text of each line that is neither blank nor a comment."""
    try:
        with open_regular(path) as file:
            encoding, errors = _encoding(path, file.read(4096))
            file.seek(0)
            text = io.TextIOWrapper(file, encoding, errors)
            number = 0
            while line := text.readline(_LONGEST):
                number += 1
                if len(line) == _LONGEST:
                    raise ValueError(
                        f"{shown(path)}, line {number} has more than {_LONGEST} characters: expected the path of an "
                        "image a line"
                    )
                line = line.strip()
                if line and not line.startswith("#"):
                    yield number, line
    except OSError as error:
        raise OSError(f"{shown(path)} cannot be read: {error.strerror}") from error


def _encoding(path: str, head: bytes) -> tuple[str, str]:
    """Returns the encoding of a list file, and the `errors` argument for bytes that are not text.

    Raises:
        ValueError: the file is not text; the message says what the file is.
    """
    name, wanted = shown(path), "expected a folder of images, a list file or a manifest"
    if _is_image(head):
        raise ValueError(f"{name} is a single image: {wanted}; give its folder")
    if any(head.startswith(magic, at) for at, magic in _ARCHIVES):
        raise ValueError(f"{name} is an archive: {wanted}; unpack it, and give the folder that it makes")
    for mark, encoding in _ENCODINGS:
        if head.startswith(mark):
            return encoding, "replace"
    # Without a byte order mark, UTF-16 shows as a zero in every other byte.
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros = head[start::2].count(0)
        if zeros > len(head) / 4 and not head[1 - start :: 2].count(0):
            return encoding, "replace"
    if len(head.translate(None, _PLAIN)) > len(head) / 20:
        raise ValueError(f"{name} is neither text nor a folder: {wanted}")
    return "utf-8-sig", "surrogateescape"


def _name_and_label(folder: str, line: str) -> tuple[str, int | None]:
    """Splits a line of a list into a path and a label."""
    # A name may hold spaces and end in a number. So a label is expected only after the extension of an image, or if
    # no file has the whole line as its name.
    name, *rest = line.rsplit(None, 1)
    label = rest[0] if rest else ""
    number = len(label) <= len(str(MAX_LABEL)) and label.isascii() and label.isdigit() and int(label) < MAX_LABEL
    if not number or is_image(line) or (not is_image(name) and _find(folder, line)[1] is not None):
        return line, None
    return name, int(label)


def _check_label(path: str, folder: str, number: int, line: str) -> None:
    """Refuses a line whose label is not a number.

    The last word counts as a label if the rest of the line names a file.
    """
    name, *rest = line.rsplit(None, 1)
    if rest and not is_image(line) and _find(folder, name)[1] is not None:
        raise ValueError(
            f"{shown(path)}, line {number}: expected a label that is a whole number from 0 to {MAX_LABEL - 1}, got "
            f"{shown(rest[0])}: number the classes"
        )


def _find(folder: str, name: str) -> tuple[str, int | None]:
    """Returns the absolute path of a name in a list, and the bytes of the file.

    The bytes are None if the file does not exist.
    """
    tried = [name, name.replace("\\", "/")] if "\\" in name else [name]
    for each in tried:
        full = os.path.normpath(os.path.join(folder, each))
        try:
            status = _retried(os.stat, full)
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(status.st_mode):
            return full, status.st_size
    return os.path.normpath(os.path.join(folder, name)), None
