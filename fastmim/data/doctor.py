"""The doctor: what a folder of images holds, found by reading and decoding all of it. May import config, image
and fastmim_kernels.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from fastmim_kernels.reader import Batch, File, Header, Reader

from ..config import Data
from .decode import decode_window
from .image import DEFAULT_LIMITS, Limits, refusal, reserved, seen_size
from .manifest import Manifest

_VALUES = np.arange(256) / 255
_NOTICEABLE = 0.05  # of the 0..1 scale
_NAMED = 5

_KINDS: dict[str, Callable[[Header], bool]] = {
    "16-bit": lambda header: header.bits > 8,
    "CMYK": lambda header: header.cmyk,
    "grayscale": lambda header: header.channels < 3 and not header.palette,
    "palette": lambda header: header.palette,
    "alpha": lambda header: header.alpha,
    "EXIF-rotated": lambda header: header.orientation > 1,
}
# What training does about them.
_EFFECTS = {
    "broken": "replaced by others",
    "changed": "since the last manifest",
    "16-bit": "their high bytes are used",
    "CMYK": "without colour profile",
    "alpha": "dropped",
    "EXIF-rotated": "turned upright",
}


@dataclass(frozen=True)
class Report:
    """What `examine` found. Paths are those of the manifest, in its order.

    broken: why each file that training would replace is bad.
    changed: how each file differs from an earlier manifest; None if there is none.
    unusual: the readable files of each kind that deserves a look; the last kind is "tiny".
    duplicates: the files of each content that occurs more than once.
    sizes: (N, 2) height and width of the readable images, as seen.
    mean, std: of red, green and blue in one image, on the 0..1 scale, averaged over the images: so were those of
        ImageNet found (pytorch/vision#1965), the defaults of data.mean and data.std. None if no pixels were decoded.
    checksums: as in a manifest.
    """

    images: int
    bytes: int
    seconds: float
    broken: dict[str, str]
    changed: dict[str, str] | None
    unusual: dict[str, list[str]]
    duplicates: list[list[str]]
    sizes: np.ndarray
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    checksums: list[int]

    def rows(self) -> list[tuple[str, str, str]]:
        """The report as a table: what, how much, and details."""
        copies = sum(map(len, self.duplicates)) - len(self.duplicates)
        rows = [
            ("images", str(self.images), f"{self.bytes / 1e6:.1f} MB, {self.images / self.seconds:.0f} images/s"),
            *(
                (name, str(len(files)), _first([f"{path!r}: {why}" for path, why in files.items()]))
                for name, files in (("broken", self.broken), ("changed", self.changed))
                if files is not None
            ),
            *((kind, str(len(paths)), _first(map(repr, paths))) for kind, paths in self.unusual.items()),
            ("duplicates", str(copies), _first([" = ".join(map(repr, paths[:_NAMED])) for paths in self.duplicates])),
        ]
        rows = [(f"{name} ({_EFFECTS[name]})" if name in _EFFECTS else name, *rest) for name, *rest in rows]
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
        """What to do about it, a sentence each."""
        found = []
        if self.broken:
            share, budget = 100 * len(self.broken) / self.images, f"data.bad_budget's default of {Data.bad_budget:.0%}"
            if len(self.broken) > Data.bad_budget * self.images:
                found.append(f"{share:.3g}% are broken, above {budget}: a run would stop")
            else:
                found.append(f"{share:.3g}% are broken, within {budget}: a run replaces each by another image")
        ours, theirs = (self.mean or ()) + (self.std or ()), Data.mean + Data.std
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
    """Reads every image of a manifest, decodes it with Pillow, and sums up.

    Args:
        threads: for decoding, and as many for reading.
        tiny: images with a shorter side below this, in pixels, are named.
        quick: headers and checksums only: no pixels, so no damage inside of them and no mean.
        before: an earlier manifest of these files; what differs from it is not broken for that, but named.
        progress: wraps what is iterated over, one item an image.
        limits: files whose headers say that decoding needs more are broken.
    """
    start = time.perf_counter()
    broken: dict[str, str] = {}
    changed: dict[str, str] | None = None if before is None else {}
    earlier = {} if before is None else {path: index for index, path in enumerate(before.paths)}
    unusual: dict[str, list[str]] = {kind: [] for kind in (*_KINDS, "tiny")}
    same: dict[int, list[str]] = defaultdict(list)
    sizes, checksums, total, decoded, read = [], [], np.zeros((3, 2)), 0, 0
    found = _examined(manifest, threads, quick, limits)
    for path, (file, moments, reason) in zip(manifest.paths, progress(found), strict=True):
        read += len(file.data)
        checksums.append(file.checksum or 0)
        if path in earlier and file.checksum is not None:
            difference = before.difference(earlier[path], len(file.data), file.checksum)
            if difference is not None:
                changed[path] = difference
        if reason is not None:
            broken[path] = reason
            continue
        same[file.checksum].append(path)
        sizes.append(seen_size(file))
        for kind, test in _KINDS.items():
            if test(file.header):
                unusual[kind].append(path)
        if min(sizes[-1]) < tiny:
            unusual["tiny"].append(path)
        if moments is not None:
            total += moments
            decoded += 1
    mean, std = map(tuple, (total.T / decoded).tolist()) if decoded else (None, None)
    return Report(
        images=len(manifest),
        bytes=read,
        seconds=time.perf_counter() - start,
        broken=broken,
        changed=changed,
        unusual=unusual,
        duplicates=[paths for paths in same.values() if len(paths) > 1],
        sizes=np.array(sizes).reshape(-1, 2),
        mean=mean,
        std=std,
        checksums=checksums,
    )


def write_bad_files(path: str, broken: dict[str, str]) -> None:
    """Lists broken files as a training run does: one JSON object a line."""
    with open(path, "w", encoding="ascii") as file:
        file.writelines(json.dumps({"path": name, "reason": reason}) + "\n" for name, reason in broken.items())


def environment() -> dict[str, str]:
    """What a run would load images with, and its versions."""
    try:
        import nvidia.dali as dali

        found, loader = dali.__version__, "DALI"
    except ImportError as error:
        found, loader = f"none ({error})", "Pillow, which is slower"
    return {"torch": version("torch"), "Pillow": version("pillow"), "DALI": found, "a run decodes with": loader}


def _examined(
    manifest: Manifest, threads: int, quick: bool, limits: Limits
) -> Iterator[tuple[File, np.ndarray | None, str | None]]:
    """(file, its `_moments`, why it is broken) of every image, in order; a few files ahead are in memory."""

    def look(index: int, reading: Batch) -> tuple[File, np.ndarray | None, str | None]:
        (file,) = reading.result()
        reason = refusal(file, limits) or manifest.difference(index, len(file.data), file.checksum)
        if reason is not None or quick:
            return file, None, reason
        try:
            with reserved(limits, file):
                return file, _moments(file), None
        except ValueError as error:
            return file, None, str(error)

    pending: deque[Future] = deque()
    reader = Reader(threads, checksum=True, largest=limits.file_bytes, advice=limits.advice)
    with reader, ThreadPoolExecutor(threads) as pool:
        for index in range(len(manifest)):
            pending.append(pool.submit(look, index, reader.submit([manifest.path(index)], [not quick])))
            if len(pending) > 4 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _first(items: Iterable[str]) -> str:
    items = list(items)
    return "\n".join(items[:_NAMED] + [f"and {len(items) - _NAMED} more"] * (len(items) > _NAMED))


def _moments(file: File) -> np.ndarray:
    """(3, 2) float64: mean and standard deviation of red, green and blue on the 0..1 scale, over all pixels."""
    image = decode_window(file, (0, 0, *seen_size(file)), "RGB")
    share = np.array(image.histogram()).reshape(-1, 256).repeat(3 // len(image.getbands()), axis=0)
    share = share / (image.width * image.height)
    mean = share @ _VALUES
    variance = (share * (_VALUES - mean[:, None]) ** 2).sum(axis=1)
    return np.stack([mean, np.sqrt(variance)], axis=1)
