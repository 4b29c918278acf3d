"""Reconstructions by a pre-training run, with a note on the images that the run was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..analysis.png_files import is_ours, save_png
from ..analysis.reconstruction import choose_images
from ..config.base import Config
from ..data.duplicates import find_duplicates
from ..data.manifest import Manifest
from ..data.split import split_images
from ..host.terminal import shown
from ..model.build import build
from ..run.checkpoint import LoadedCheckpoint
from .pretrain import HeldOut, paths_and_labels

MOST = 256
"""Most images in a picture; thousands of images would take gigabytes of memory."""
_BATCH = 8


@torch.no_grad()
def draw(
    run: Path,
    config: Config,
    loaded: LoadedCheckpoint,
    images: Path | None,
    count: int,
    out: Path | None,
    overwrite: bool,
) -> list[str]:
    """Draws a grid of reconstructions.

    Args:
        run: the run folder.
        config: the run's config.
        loaded: the run's checkpoint.
        images: folder of images; None = the run's held-out images.
        count: number of images.
        out: PNG to write; None = reconstruction.png in the run folder.
        overwrite: replace a file at `out` that another program wrote.

    Returns:
        Lines for the user: images left out, images that the run was trained on, and last the path of the picture.

    Raises:
        ValueError: an argument is out of bounds, another program wrote the file at `out`, or no image can be used.
    """
    if not 1 <= count <= MOST:
        raise ValueError(f"--count: expected 1 to {MOST} images, got {count}")
    if out and out.suffix.lower() != ".png":
        raise ValueError(f"--out {shown(out)}: expected a name that ends in .png")
    if out and out.exists() and not overwrite and not is_ours(out):
        raise ValueError(
            f"--out {shown(out)}: expected a new file or a picture of fastmim; choose another name, or replace it with "
            "--overwrite"
        )
    if not images and not config.data.held_out:
        raise ValueError(f"{shown(run)} has no held-out images (data.held_out=0): give images with --images FOLDER")
    manifest = Manifest.scan(str(images or config.data.root))
    if images:
        index = torch.arange(len(manifest))
    else:
        _, manifest, index = split_images(manifest, config.data, config.train.seed)
    index = index[choose_images(*paths_and_labels(manifest, index), count)]
    mim = build(config).eval()
    mim.load_state_dict(loaded.state["model"])
    held, bad = HeldOut.load(mim, manifest, index, config.data)
    if not len(held.images):
        raise ValueError(f"none of the {len(index)} images can be used; give other images with --images FOLDER")
    note = training_overlap(run, config, loaded.meta, manifest, held.index)
    out = out or run / "reconstruction.png"
    path = save_png(held.grid(mim, held.predict(mim, _BATCH), [note]), out.parent, out.name)
    return [*(f"left out: {shown(name)}: {shown(reason)}" for name, reason in bad.items()), note, shown(path)]


def training_overlap(run: Path, config: Config, meta: dict[str, Any], manifest: Manifest, index: Tensor) -> str:
    """Describes in a sentence or two which of the images the run was trained on.

    Args:
        run: the run folder. Its manifest.json lists the images of `data.root` at the time of training.
        config: the run's config.
        meta: metadata of the run's checkpoint.
        manifest: lists the images.
        index: (N,) int64, the drawn images' places in the manifest.
    """
    unknown = "It is not known if the run was trained on these images"
    expected = meta.get("manifest")
    if expected is None:
        return f"{unknown} (its checkpoint does not name them)."
    try:
        known = Manifest.load(str(run / "manifest.json"))
    except (OSError, ValueError):
        return f"{unknown} (manifest.json in its folder cannot be read)."
    if known.hash != expected:
        return f"{unknown} (manifest.json in its folder lists other images)."
    # Held-out images of another folder were never part of the training images.
    data = replace(config.data, held_out=0 if config.data.held_out_root else config.data.held_out, held_out_root=None)
    trained, _, _ = split_images(known, data, config.train.seed)
    places = index.tolist()
    answers = find_duplicates(known, trained.tolist(), [(manifest.path(i), manifest.sizes[i]) for i in places])
    rows = {answer: [str(row) for row, given in enumerate(answers, 1) if given is answer] for answer in (True, None)}
    words = []
    if found := rows[True]:
        words.append(f"The run was trained on {len(found)} of these {len(places)} images: {_rows(found)}.")
    if found := rows[None]:
        words.append(f"{unknown}: {_rows(found)} (the training images cannot be read, or are too many).")
    if not words:
        words.append("The run was not trained on these images.")
    if config.run.init:
        words.append("The images of the run that it started from (run.init) are not compared.")
    return " ".join(words)


def _rows(numbers: list[str]) -> str:
    return f"row{'s' * (len(numbers) > 1)} {', '.join(numbers)}"
