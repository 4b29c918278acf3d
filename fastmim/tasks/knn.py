"""k-NN accuracy of a pre-training run's encoder on labelled folders, its features kept in memory-mapped files.

May import L3 and below, and analysis.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Literal

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
from ..model.classifier import pooling, recalibrate
from ..model.mim import MIM
from ..run.checkpoint import Loaded
from .classify import PIECE, calibration, count_classes, whole_images
from .parts import build
from .tested import check_budget


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
    Images that cannot be used are left out and counted.

    Raises:
        ValueError: no such folders, settings that do not fit, or too many images that cannot be used.
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
    pool_of = pooling(mim.encoder, Head(pool=pool))
    norms = recalibrate(mim.encoder, (pixels(mim, some) for some in _calibration(train, data, config, device)))
    asked = json.dumps([loaded.path.name, hashlib.sha256((loaded.path / "manifest.json").read_bytes()).hexdigest(),
                        pool, crop_pct, data.size, data.crop.interpolation, train.hash if norms else None])  # fmt: skip
    found = [
        _features(run, f"{asked}{manifest.hash}", manifest, data, mim, pool_of, device) for manifest in (train, test)
    ]
    labels = [torch.tensor(manifest.labels, device=device) for manifest in (train, test)]
    left_out = [bad for _, bad in found]
    banks = [_without(bank, bad) for bank, bad in found]
    labels = [_without(some, bad) for some, bad in zip(labels, left_out, strict=True)]
    accuracy = knn_accuracy(banks[0], labels[0], banks[1], labels[1], k, temperature)
    found = {"top1": accuracy, "k": k, "temperature": temperature, "pool": pool, "crop_pct": crop_pct}
    found |= {"classes": classes, "bank": len(banks[0]), "images": len(banks[1]), "checkpoint": loaded.path.name}
    found["bad_images"] = sum(map(len, left_out))
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
) -> tuple[Tensor, list[int]]:
    """(N, D) float32 on the CPU, of which only what is read is in memory; and which images cannot be used.

    Made once, then found in RUN/features, unless some images could not be used: they may be whole the next time.
    """
    file = output(run, "features", f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy")
    shape = (len(manifest), mim.encoder.embed_dim)
    if (known := _kept(file, shape)) is not None and not known[:, 0].isnan().any():
        return known, []
    file.parent.mkdir(exist_ok=True)
    bad: dict[int, str] = {}
    with writing(file) as out:
        npy.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
        # On a full disk this is refused; writing to a mapped file would end the process.
        os.posix_fallocate(out.fileno(), 0, out.tell() + 4 * shape[0] * shape[1])
        rows = np.memmap(out, np.dtype("<f4"), "r+", out.tell(), shape)
        rows[:] = np.nan
        with whole_images(manifest, data, device) as loader:
            for index, _, reason in loader.headers(torch.arange(len(manifest))):
                bad |= {index: reason} if reason else {}
            check_left_out(manifest, bad, data.bad_budget)
            for (images, index, *_), left_out in loader.intact(torch.arange(len(manifest)).split(PIECE)):
                bad |= left_out
                if len(images):
                    features = mim.encoder.features(pixels(mim, images.to(device)))
                    rows[index.numpy()] = pool(features).float().cpu().numpy()
        rows.flush()
    for index, reason in bad.items():
        print(f"left out: {shown(manifest.path(index))}: {shown(reason)}")
    check_left_out(manifest, bad, data.bad_budget)
    return _kept(file, shape), sorted(bad)


def _without(rows: Tensor, left_out: list[int]) -> Tensor:
    """Drops some rows."""
    if not left_out:
        return rows  # not copied: they may be many
    kept = torch.ones(len(rows), dtype=torch.bool)
    kept[left_out] = False
    return rows[kept.to(rows.device)]


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


def check_left_out(manifest: Manifest, bad: dict[int, str], budget: float) -> None:
    """
    Raises:
        BadFilesError: more images than the run's `data.bad_budget` are bad, or all.
    """
    named = {manifest.paths[index]: reason for index, reason in bad.items()}
    check_budget("--data", manifest.root, named, len(manifest), budget)
