"""k-NN accuracy of a pre-training run's encoder on labelled folders, its features kept in memory-mapped files.

May import L3 and below, and analysis.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ..analysis.knn import knn_accuracy
from ..checkpoint import Loaded
from ..classifier import pooling, recalibrate
from ..config import Config
from ..data.manifest import Manifest
from ..files import open_regular, output, write, writing
from ..mim import MIM
from ..transfer import Head, LabelledData, Probe
from .classify import PIECE, calibration, count_classes, whole_images
from .parts import build


def measure(
    run: Path,
    config: Config,
    loaded: Loaded,
    folder: Path,
    k: int,
    temperature: float,
    pool: Literal["mean", "cls"],
    crop_pct: float,
    device: torch.device,
) -> dict:
    """Accuracy on FOLDER/test with FOLDER/train to search in; left in the run folder as knn.json too.

    Features are of central crops, cls or the mean of the other tokens; batch norms take the statistics of clean
    training images first. They stay in RUN/features, for the next call with the same checkpoint and images.

    Raises:
        ValueError: no such folders, or settings that do not fit.
        BadFilesError: an image cannot be used.
    """
    old = config.data
    data = LabelledData(
        crop=old.crop, root=str(folder / "train"), test=str(folder / "test"), size=old.size, mean=old.mean,
        std=old.std, loader=old.loader, workers=old.workers, prefetch=old.prefetch, crop_pct=crop_pct,
        decode_memory=old.decode_memory, decode_seconds=old.decode_seconds,
    )  # fmt: skip
    train, test = Manifest.scan(data.root), Manifest.scan(data.test)
    classes = count_classes(train, test, data)
    mim = build(config)
    mim.load_state_dict(loaded.state["model"])
    mim.to(device).eval()
    pool_of = pooling(mim.encoder, Head(pool=pool))
    norms = recalibrate(mim.encoder, (pixels(mim, some) for some in _calibration(train, data, config, device)))
    asked = json.dumps([loaded.path.name, hashlib.sha256((loaded.path / "manifest.json").read_bytes()).hexdigest(),
                        pool, crop_pct, data.size, data.crop.interpolation, train.hash if norms else None])  # fmt: skip
    banks = [
        _features(run, f"{asked}{manifest.hash}", manifest, data, mim, pool_of, device) for manifest in (train, test)
    ]
    labels = [torch.tensor(manifest.labels, device=device) for manifest in (train, test)]
    accuracy = knn_accuracy(banks[0], labels[0], banks[1], labels[1], k, temperature)
    found = {"top1": accuracy, "k": k, "temperature": temperature, "pool": pool, "crop_pct": crop_pct}
    found |= {"classes": classes, "bank": len(train), "images": len(test), "checkpoint": loaded.path.name}
    write(output(run, "knn.json"), json.dumps(found, indent=2) + "\n")
    return found


def pixels(mim: MIM, images: Tensor) -> Tensor:
    """(B, C, H, W) normalised."""
    return mim.objective.normalize(images).permute(0, 3, 1, 2)


def _calibration(train: Manifest, data: LabelledData, config: Config, device: torch.device):
    return calibration(train, data, Probe.calibrate, config.train.seed, device)


@torch.no_grad()
def _features(
    run: Path, key: str, manifest: Manifest, data: LabelledData, mim: MIM, pool: torch.nn.Module, device: torch.device
) -> Tensor:
    """(N, D) float32 on the CPU, of which only what is read is in memory; made once, then found in RUN/features."""
    file = output(run, "features", f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy")
    shape = (len(manifest), mim.encoder.embed_dim)
    if (kept := _kept(file, shape)) is not None:
        return kept
    file.parent.mkdir(exist_ok=True)
    with writing(file) as out:
        npy.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
        rows = np.memmap(out, np.dtype("<f4"), "r+", out.tell(), shape)
        with whole_images(manifest, data, device) as loader:
            for images, index in loader.batches(torch.arange(len(manifest)).split(PIECE)):
                rows[index.numpy()] = pool(mim.encoder.features(pixels(mim, images.to(device)))).float().cpu().numpy()
        rows.flush()
    return _kept(file, shape)


def _kept(file: Path, shape: tuple[int, int]) -> Tensor | None:
    """The features in a file, or None if there are none of this shape."""
    try:
        open_regular(file).close()
        # Mapped copy-on-write: torch takes no array that cannot be written.
        rows = np.load(file, mmap_mode="c")
    except (OSError, ValueError, EOFError, SyntaxError):  # not there, or no such file
        return None
    if rows.shape != shape or rows.dtype != np.float32 or not rows.flags.c_contiguous:
        return None
    return torch.from_numpy(rows)
