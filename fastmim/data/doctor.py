"""The doctor: reads and decodes all images of a folder, and reports on them."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from fastmim_kernels.reader import File, Header, PendingFiles, Reader

from ..config.base import ImageData
from ..host.files import write
from ..host.records import read_rows
from ..host.terminal import shown
from .availability import RetryingReader
from .decode import to_8_bits
from .image import DEFAULT_LIMITS, Limits, decode_upright, readable_header, refusal, reserved, seen_size
from .manifest import Manifest
from .quarantine import is_entry
from .scan import describe_reasons

_VALUES = np.arange(256) / 255
_NOTICEABLE = 0.05  # difference of colours on the 0..1 scale that is worth advice
_NAMED = 5  # most files in a row of the report
_SCALE = "scale them to the full range of 16 bits, or write 8-bit files"
_SPLIT = "write each to its own file to train on all"
_LOOKS = 8  # images that `first_look` examines

_KINDS: dict[str, Callable[[Header], bool]] = {
    "16-bit": lambda header: header.bits > 8,
    "CMYK": lambda header: header.cmyk,
    "grayscale": lambda header: header.channels < 3 and not header.palette,
    "palette": lambda header: header.palette,
    "alpha": lambda header: header.alpha,
    "EXIF-rotated": lambda header: header.orientation > 1,
    "frames": lambda header: header.frames > 1,
    "bands": lambda header: header.channels > 4 or (header.channels == 4 and not header.alpha and not header.cmyk),
}
# The effect on training of each kind.
_EFFECTS = {
    "broken": "replaced by others",
    "changed": "since the last manifest",
    "16-bit": "their high bytes are used",
    "CMYK": "without colour profile",
    "alpha": "dropped",
    "EXIF-rotated": "turned upright",
    "frames": "or pages: the first is used",
    "bands": "beyond three: not used",
    "left out": "not images by name or content",
}


@dataclass(frozen=True)
class ChannelStatistics:
    """The pixel values of images with more than 8 bits, before and after the conversion to 8 bits."""

    low: int
    """Smallest value."""
    high: int
    """Largest value."""
    levels: int
    """Number of different values."""
    kept: int
    """Number of different values after the conversion to 8 bits."""

    @staticmethod
    def of(seen: np.ndarray, kept: np.ndarray) -> ChannelStatistics | None:
        """Returns the levels of the values that occur, or None if there are none.

        Args:
            seen: (65536,) bool, True for values that occur.
            kept: (256,) bool, True for values that occur after the conversion to 8 bits.
        """
        values = np.flatnonzero(seen)
        return ChannelStatistics(int(values[0]), int(values[-1]), len(values), int(kept.sum())) if len(values) else None

    @property
    def lost(self) -> bool:
        """True if the conversion loses at least half of the levels that 8 bits could show."""
        return 2 * self.kept <= min(self.levels, 256)

    def __str__(self) -> str:
        return f"values {self.low} to {self.high}; {self.kept} of {self.levels} levels survive the conversion to 8 bits"


@dataclass(frozen=True)
class Report:
    """The findings of `examine`.

    Files are named by their paths in the manifest, in the order of the manifest.
    """

    images: int
    """Number of images."""
    bytes: int
    """Size of all files."""
    seconds: float
    """Duration of the examination."""
    broken: dict[str, str]
    """{path: reason} of the files that training would replace."""
    changed: dict[str, str] | None
    """{path: difference} of the files that differ from an earlier manifest; None if there is none."""
    unusual: dict[str, list[str]]
    """{kind: paths} of readable but unusual files; the last kind is "tiny"."""
    duplicates: list[list[str]]
    """Groups of files with the same content."""
    left_out: Counter[str]
    """Number of files that are not images, by reason."""
    frames: int
    """Number of pages or frames beyond the first, over all files."""
    levels: ChannelStatistics | None
    """Pixel values of images with more than 8 bits; None without such images or without decoding."""
    sizes: np.ndarray
    """(N, 2), height and width of the readable images after their EXIF orientation."""
    mean: tuple[float, ...] | None
    """Mean of red, green and blue within each image, averaged over the images; None without decoding.
    The scale is 0..1. The published values of ImageNet, the defaults of data.mean and data.std, were found in this way
    (pytorch/vision#1965).
    """
    std: tuple[float, ...] | None
    """Standard deviation within each image, averaged like `mean`."""
    checksums: list[int]
    """XXH64 of each file, 0 = could not be read."""

    def rows(self) -> list[tuple[str, str, str]]:
        """Returns the report as rows of a table: subject, number, details."""
        copies = sum(map(len, self.duplicates)) - len(self.duplicates)
        rows = [
            ("images", str(self.images), f"{self.bytes / 1e6:.1f} MB, {self.images / self.seconds:.0f} images/s"),
            *[("left out", str(self.left_out.total()), describe_reasons(self.left_out))] * bool(self.left_out),
            *(
                (name, str(len(files)), _first([f"{shown(path)}: {why}" for path, why in files.items()]))
                for name, files in (("broken", self.broken), ("changed", self.changed))
                if files is not None
            ),
            *((kind, str(len(paths)), _first(map(shown, paths))) for kind, paths in self.unusual.items()),
            ("duplicates", str(copies), _first([" = ".join(map(shown, paths[:_NAMED])) for paths in self.duplicates])),
        ]
        rows = [
            (f"{name} ({_EFFECTS[name]})" if name in _EFFECTS else name, number, details)
            for name, number, details in rows
        ]
        if self.levels:
            rows.append(("levels of 16 bits", str(self.levels.levels), str(self.levels)))
        if len(self.sizes):
            height, width = self.sizes.T
            for name, values in (("shorter", np.minimum(height, width)), ("longer", np.maximum(height, width))):
                rows.append(
                    (f"{name} side", f"{np.median(values):.0f}", f"px, median; {values.min()} to {values.max()}")
                )
            ratio = width / height
            rows.append(
                ("width / height", f"{np.median(ratio):.2f}", f"median; {ratio.min():.4g} to {ratio.max():.4g}")
            )
        if self.mean:
            rows += [
                (f"{name} (of each image, averaged)", "", " ".join(f"{v:.4f}" for v in getattr(self, name)))
                for name in ("mean", "std")
            ]
        return rows

    def advice(self) -> list[str]:
        """Returns advice on the findings, one sentence each."""
        found = []
        if self.broken:
            share, budget = (
                100 * len(self.broken) / self.images,
                f"data.bad_budget's default of {ImageData.bad_budget:.0%}",
            )
            if len(self.broken) > ImageData.bad_budget * self.images:
                found.append(f"{share:.3g}% are broken, above {budget}: a run would stop")
            else:
                found.append(f"{share:.3g}% are broken, within {budget}: a run replaces each by another image")
        if self.levels and self.levels.lost:
            found.append(f"images of more than 8 bits lose levels ({self.levels}): {_SCALE}")
        if self.frames:
            files = len(self.unusual["frames"])
            found.append(f"{self.frames} pages or frames beyond the first, in {files} files, are not used: {_SPLIT}")
        ours, theirs = (self.mean or ()) + (self.std or ()), ImageData.mean + ImageData.std
        if any(abs(a - b) > _NOTICEABLE for a, b in zip(ours, theirs, strict=False)):
            options = (f"--data.{name} {' '.join(f'{v:.3f}' for v in getattr(self, name))}" for name in ("mean", "std"))
            found.append(f"the colours are not those of ImageNet, the default: train with {' '.join(options)}")
        return found


def examine(
    manifest: Manifest,
    threads: int,
    tiny: int = 32,
    quick: bool = False,
    before: Manifest | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
    limits: Limits = DEFAULT_LIMITS,
) -> Report:
    """Reads every image of a manifest, decodes the images with Pillow, and reports on them.

    Args:
        manifest: the images.
        threads: number of threads for decoding, and of threads for reading.
        tiny: images with a shorter side below this number of pixels are reported.
        quick: True checks only headers and checksums. Damage inside pixel data is not found, and there is no mean.
        before: an earlier manifest of the files. Changed files are reported, but do not count as broken.
        progress: wraps the iterable of images, to show the progress.
        limits: limits on decoding. A file whose header exceeds them counts as broken.
    """
    start = time.perf_counter()
    broken: dict[str, str] = {}
    changed: dict[str, str] | None = None if before is None else {}
    earlier = {} if before is None else {path: index for index, path in enumerate(before.paths)}
    unusual: dict[str, list[str]] = {kind: [] for kind in (*_KINDS, "tiny")}
    same: dict[int, list[str]] = defaultdict(list)
    sizes, checksums, total, decoded, read, frames = [], [], np.zeros((3, 2)), 0, 0, 0
    values, kept = np.zeros(2**16, bool), np.zeros(2**8, bool)
    found = _examined(manifest, range(len(manifest)), threads, quick, limits)
    for path, (file, pixels, reason) in zip(manifest.paths, progress(found), strict=True):
        read += len(file.data)
        checksums.append(file.checksum or 0)
        if before is not None and changed is not None and path in earlier and file.checksum is not None:
            difference = before.difference(earlier[path], len(file.data), file.checksum)
            if difference is not None:
                changed[path] = difference
        if reason is not None:
            broken[path] = reason
            continue
        header = readable_header(file)
        same[checksums[-1]].append(path)
        sizes.append(seen_size(file))
        for kind, test in _KINDS.items():
            if test(header):
                unusual[kind].append(path)
        if min(sizes[-1]) < tiny:
            unusual["tiny"].append(path)
        frames += header.frames - 1
        if pixels is not None:
            total += pixels.moments
            decoded += 1
            values |= pixels.values
            kept |= pixels.kept
    mean, std = map(tuple, (total.T / decoded).tolist()) if decoded else (None, None)
    return Report(
        images=len(manifest),
        bytes=read,
        seconds=time.perf_counter() - start,
        broken=broken,
        changed=changed,
        unusual=unusual,
        duplicates=[paths for paths in same.values() if len(paths) > 1],
        left_out=manifest.left_out,
        frames=frames,
        levels=ChannelStatistics.of(values, kept),
        sizes=np.array(sizes).reshape(-1, 2),
        mean=mean,
        std=std,
        checksums=checksums,
    )


def check_bad_files(path: Path) -> None:
    """Checks that a path is free, or holds a list of bad files, which may be replaced.

    Raises:
        ValueError: `path` is something else.
    """
    if path.exists() and (path.is_dir() or (path.stat().st_size and not read_rows(path, is_entry))):
        raise ValueError(f"{shown(path)}: expected a list of bad files to replace, or none")


def write_bad_files(path: Path, broken: dict[str, str]) -> None:
    """Writes a list of broken files as a training run does: one JSON object a line."""
    write(path, "".join(json.dumps({"path": name, "reason": reason}) + "\n" for name, reason in broken.items()))


def environment() -> dict[str, str]:
    """Returns the versions of the libraries that a run would use to load images."""
    try:
        import nvidia.dali as dali

        found, loader = dali.__version__, "DALI"
    except ImportError as error:
        found, loader = f"none ({error})", "Pillow, which is slower"
    return {"torch": version("torch"), "Pillow": version("pillow"), "DALI": found, "a run decodes with": loader}


def still_bad(
    manifest: Manifest,
    paths: Iterable[str],
    threads: int,
    limits: Limits = DEFAULT_LIMITS,
    check: Callable[[int, tuple[int, int]], str | None] = lambda index, size: None,
) -> dict[str, str]:
    """Examines images of a manifest again, and returns the bad images: {path: reason}.

    Args:
        manifest: the images.
        paths: paths to examine. Paths that are not in the manifest are ignored.
        threads: number of threads for decoding, and of threads for reading.
        limits: limits on decoding. A file whose header exceeds them counts as bad.
        check: takes the index and (height, width) of a good image. Returns the reason why its label cannot be used, or
            None.
    """
    index = {path: i for i, path in enumerate(manifest.paths)}
    indices = [index[path] for path in paths if path in index]
    found = zip(indices, _examined(manifest, indices, threads, quick=False, limits=limits), strict=True)
    return {manifest.paths[i]: why for i, (file, _, reason) in found if (why := reason or check(i, seen_size(file)))}


def first_look(manifest: Manifest, limits: Limits = DEFAULT_LIMITS) -> list[str]:
    """Returns warnings about the pixels of a few images, one sentence each, before a run starts."""
    indices = range(0, len(manifest), -(-len(manifest) // _LOOKS))
    values, kept, frames, bands = np.zeros(2**16, bool), np.zeros(2**8, bool), 0, 0
    with Reader(1, largest=limits.file_bytes) as reader:
        files = reader.submit([manifest.path(index) for index in indices]).result()
    for file in files:
        if refusal(file, limits):
            continue
        header = readable_header(file)
        frames += header.frames > 1
        bands += _KINDS["bands"](header)
        if header.bits > 8:
            try:
                with reserved(limits, file):
                    pixels = _pixels(file)
            except ValueError:  # a bad file; the run will name it
                continue
            values |= pixels.values
            kept |= pixels.kept
    found, levels = [], ChannelStatistics.of(values, kept)
    if levels and levels.lost:
        found.append(f"images of more than 8 bits lose levels ({levels}): {_SCALE}")
    for count, what in ((frames, "several pages or frames, of which the first is used"), (bands, "unused bands")):
        if count:
            found.append(f"{count} of {len(files)} examined images have {what}")
    return found + ["`fastmim doctor` examines all images"] * bool(found)


@dataclass(frozen=True)
class _Pixels:
    """Statistics of the pixels of one image."""

    moments: np.ndarray
    """(3, 2) float64, mean and standard deviation of red, green and blue on the 0..1 scale."""
    values: np.ndarray
    """(65536,) bool, True for values that occur in an image with more than 8 bits."""
    kept: np.ndarray
    """(256,) bool, True for values that occur after the conversion to 8 bits."""


def _examined(
    manifest: Manifest, indices: Iterable[int], threads: int, quick: bool, limits: Limits
) -> Iterator[tuple[File, _Pixels | None, str | None]]:
    """Yields (file, pixels, reason why the file is broken) of each image, in order.

    A few files are read ahead.
    """

    def look(index: int, reading: PendingFiles) -> tuple[File, _Pixels | None, str | None]:
        files = reading.result()
        retrying.retry([index], files)
        (file,) = files
        reason = refusal(file, limits) or manifest.difference(index, len(file.data), file.checksum)
        if reason is not None or quick:
            return file, None, reason
        try:
            with reserved(limits, file):
                return file, _pixels(file), None
        except ValueError as error:
            return file, None, str(error)

    def submit(several: list[int]) -> PendingFiles:
        return reader.submit([manifest.path(index) for index in several], [not quick] * len(several))

    pending: deque[Future] = deque()
    reader = Reader(threads, checksum=True, largest=limits.file_bytes, advice=limits.advice)
    with reader, ThreadPoolExecutor(threads) as pool:
        retrying = RetryingReader(manifest, lambda several: submit(several).result(), limits.file_bytes)
        try:
            for index in indices:
                pending.append(pool.submit(look, index, submit([index])))
                if len(pending) > 4 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _first(items: Iterable[str]) -> str:
    items = list(items)
    return "\n".join(items[:_NAMED] + [f"and {len(items) - _NAMED} more"] * (len(items) > _NAMED))


def _pixels(file: File) -> _Pixels:
    """Returns statistics of the pixels of a file.

    Raises:
        ValueError: the file cannot be decoded; the text is the reason.
    """
    image, bits = decode_upright(file), readable_header(file).bits
    values = np.zeros(2**16, bool)
    if image.mode.startswith("I;16"):
        for row in np.asarray(
            image
        ):  # row by row, because an index array of the whole image would take eight times its memory
            values[row] = True
    image = to_8_bits(image, "RGB", bits)
    counts = np.array(image.histogram()).reshape(-1, 256).repeat(3 // len(image.getbands()), axis=0)
    kept = counts.sum(axis=0) > 0
    if bits > 8 and not values.any():  # Pillow returned only the high bits
        values = kept.repeat(256)
    share = counts / (image.width * image.height)
    mean = share @ _VALUES
    variance = (share * (_VALUES - mean[:, None]) ** 2).sum(axis=1)
    return _Pixels(np.stack([mean, np.sqrt(variance)], axis=1), values, kept & (bits > 8))
