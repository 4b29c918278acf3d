"""k-NN accuracy of a pre-trained encoder on labelled folders, with features in memory-mapped files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ..analysis.nearest_neighbours import knn_accuracy
from ..config.base import Config
from ..config.classify import Head, LabelledData, Probe
from ..data.manifest import Manifest
from ..host.files import open_regular, output, write, writing
from ..host.terminal import shown
from ..model.build import build
from ..model.classifier import pooling, recalibrate
from ..model.mim import MIM
from ..run.checkpoint import LoadedCheckpoint
from .downstream_task import check_budget
from .labelled_images import PIECE, calibration, class_labels, count_classes, open_central_crops


def measure(
    run: Path,
    config: Config,
    loaded: LoadedCheckpoint,
    folder: Path,
    k: int,
    temperature: float,
    pool: Literal["mean", "cls"],
    crop_pct: float,
    device: torch.device,
) -> dict[str, Any]:
    """Measures the k-NN accuracy on FOLDER/test, with the images of FOLDER/train as neighbours.

    The features of a central crop are the class token, or the mean of all other tokens. Batch norms first take the
    statistics of training images without masks. RUN/features keeps the features for the next call with the same
    checkpoint and images. Images that cannot be used are left out and counted.

    Args:
        run: the run folder.
        config: the run's config.
        loaded: the run's checkpoint.
        folder: holds train/CLASS/ and test/CLASS/ images.
        k: number of neighbours that vote.
        temperature: a vote has the weight exp(cosine / temperature).
        pool: mean = the mean of all tokens except the class token; cls = the class token.
        crop_pct: side of the central crop, as a fraction of the largest crop that fits.
        device: computes the features and the votes.

    Returns:
        The content of knn.json, which this function writes.

    Raises:
        ValueError: a folder is missing, a setting does not fit, or too many images cannot be used.
    """
    old = config.data
    data = LabelledData(
        crop=old.crop, root=str(folder / "train"), test=str(folder / "test"), size=old.size, mean=old.mean,
        std=old.std, bad_budget=old.bad_budget, loader=old.loader, workers=old.workers,
        prefetch=old.prefetch, crop_pct=crop_pct,
        decode_memory=old.decode_memory, decode_seconds=old.decode_seconds,
    )  # fmt: skip
    if missing := [part for part in ("train", "test") if not (folder / part).is_dir()]:
        raise ValueError(
            f"--data {shown(folder)}: expected a folder that holds train/CLASS and test/CLASS, "
            f"found no {missing[0]} there"
        )
    train, test = Manifest.scan(data.root), Manifest.scan(data.test)
    classes = count_classes(train, test, data)
    if len(train) < k:
        raise ValueError(f"--k {k}: expected at most as many as there are images in {data.root}, {len(train)}")
    if not os.access(run, os.W_OK | os.X_OK):
        raise ValueError(f"{run}: expected a run folder that can be written to, for features and knn.json")
    mim = build(config)
    mim.load_state_dict(loaded.state["model"])
    mim.to(device).eval()
    pool_module = pooling(mim.encoder, Head(pool=pool))
    clean = calibration(train, data, Probe.calibrate, config.train.seed, device)
    norms = recalibrate(mim.encoder, (pixels(mim, images) for images in clean))
    asked = json.dumps([loaded.path.name, hashlib.sha256((loaded.path / "manifest.json").read_bytes()).hexdigest(),
                        pool, crop_pct, data.size, data.crop.interpolation, train.hash if norms else None])  # fmt: skip
    banks, labels, bad_images = [], [], 0
    for manifest in (train, test):
        features, bad = _features(run, f"{asked}{manifest.hash}", manifest, data, mim, pool_module, device)
        banks.append(_without(features, bad))
        labels.append(_without(torch.tensor(class_labels(manifest, manifest.root), device=device), bad))
        bad_images += len(bad)
    result = {
        "top1": knn_accuracy(banks[0], labels[0], banks[1], labels[1], k, temperature),
        "k": k,
        "temperature": temperature,
        "pool": pool,
        "crop_pct": crop_pct,
        "classes": classes,
        "bank": len(banks[0]),
        "images": len(banks[1]),
        "checkpoint": loaded.path.name,
        "bad_images": bad_images,
    }
    write(output(run, "knn.json"), json.dumps(result, indent=2) + "\n")
    return result


def pixels(mim: MIM, images: Tensor) -> Tensor:
    """Normalises (B, H, W, C) uint8 images to (B, C, H, W) floats."""
    return mim.objective.normalize(images).permute(0, 3, 1, 2)


@torch.no_grad()
def _features(
    run: Path, key: str, manifest: Manifest, data: LabelledData, mim: MIM, pool: torch.nn.Module, device: torch.device
) -> tuple[Tensor, list[int]]:
    """Returns the features of all images of a manifest, and the indices of images that cannot be used.

    The features are kept in a file of RUN/features, which the next call reads. If some images cannot be used, the next
    call computes all features again, because the images may be repaired by then.

    Args:
        run: run folder.
        key: text that names everything the features depend on; its hash names the file.
        manifest: the N images.
        data: settings of loading.
        mim: model whose encoder computes the features.
        pool: maps the encoder's output to one vector an image.
        device: device of the encoder.

    Returns:
        The features, (N, D) float32, and the indices. The features are memory-mapped: only the parts that are read take
        memory.
    """
    file = output(run, "features", f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy")
    shape = (len(manifest), mim.encoder.embed_dim)
    if (known := _kept(file, shape)) is not None and not known[:, 0].isnan().any():
        return known, []
    file.parent.mkdir(exist_ok=True)
    bad: dict[int, str] = {}
    with writing(file) as out:
        npy.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
        # On a full disk this call fails. Without the call, writing to the mapped file would kill the process.
        os.posix_fallocate(out.fileno(), 0, out.tell() + 4 * shape[0] * shape[1])
        rows = np.memmap(out, np.dtype("<f4"), "r+", out.tell(), shape)
        rows[:] = np.nan
        with open_central_crops(manifest, data, device) as loader:
            for index, _, reason in loader.headers(torch.arange(len(manifest))):
                bad |= {index: reason} if reason else {}
            check_left_out(manifest, bad, data.bad_budget)
            for (images, index, *_), left_out in loader.intact_batches(torch.arange(len(manifest)).split(PIECE)):
                bad |= left_out
                if len(images):
                    features = mim.encoder.features(pixels(mim, images.to(device)))
                    rows[index.numpy()] = pool(features).float().cpu().numpy()
        rows.flush()
    for index, reason in bad.items():
        print(f"left out: {shown(manifest.path(index))}: {shown(reason)}")
    check_left_out(manifest, bad, data.bad_budget)
    if (made := _kept(file, shape)) is None:
        raise ValueError(f"{shown(file)} was changed while the features were read; start again")
    return made, sorted(bad)


def _without(rows: Tensor, left_out: list[int]) -> Tensor:
    """Returns the rows except those at the indices `left_out`."""
    if not left_out:
        return rows  # avoids the copy that indexing makes
    kept = torch.ones(len(rows), dtype=torch.bool)
    kept[left_out] = False
    return rows[kept.to(rows.device)]


def _kept(file: Path, shape: tuple[int, int]) -> Tensor | None:
    """Returns the features in a file, or None if the file does not hold features of this shape."""
    try:
        open_regular(file).close()
        # Mapped copy-on-write, because torch warns about read-only arrays.
        rows = np.load(file, mmap_mode="c")
    except (OSError, ValueError, EOFError, SyntaxError):  # no such file, or not an array
        return None
    if rows.shape != shape or rows.dtype != np.float32 or not rows.flags.c_contiguous:
        return None
    return torch.from_numpy(rows)


def check_left_out(manifest: Manifest, bad: dict[int, str], budget: float) -> None:
    """Checks that enough images can be used.

    Raises:
        BadFilesError: the fraction of bad images is above the run's `data.bad_budget`, or all are bad.
    """
    named = {manifest.paths[index]: reason for index, reason in bad.items()}
    check_budget("--data", manifest.root, named, len(manifest), budget)
