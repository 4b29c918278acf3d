"""Reconstruction grids: original, masked, reconstruction, paste-back. May import L2 and below."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..objective import Objective
from ..tokens import Mask, patchify, take, unpatchify

COLUMNS = ("original", "masked", "reconstruction", "paste-back")
GREY = 0.5
CELL = 192  # pixels; smaller images are enlarged by the largest whole number that fits
GAP = 4
HEADER = 24


def reconstruction_grid(objective: Objective, images: Tensor, mask: Mask, pred: Tensor) -> Image.Image:
    """One row an image: original, visible patches, predicted patches, visible and predicted patches together.

    Predictions of normalised patches are brought back to pixels with the mean and variance of the true patch, as
    there is no other source for them: what the picture shows is structure, not brightness.

    Args:
        images: (B, H, W, C) uint8; C is 1 or 3.
        pred: (B, M, P) predictions of `mask.ids[:, -M:]`, of which the hidden ones are shown.
    """
    size, hidden_ids = objective.patch_size, mask.ids_hidden
    patches = patchify(objective.normalize(images), size)
    pred = pred[:, -hidden_ids.shape[1] :].float()
    predicted_of = patchify(objective.source(objective.normalize(images)), size)
    pixels = objective.target.pixels(pred, take(predicted_of, hidden_ids))
    index = hidden_ids[..., None].expand_as(pixels)
    original, predicted = (
        unpatchify(x, size, mask.grid) * objective.std.float() + objective.mean.float()
        for x in (patches, patches.scatter(1, index, pixels))
    )
    hidden = unpatchify(mask.mask[..., None].expand_as(patches), size, mask.grid)
    grey = torch.full_like(original, GREY)
    columns = [original, torch.where(hidden, grey, original), torch.where(hidden, predicted, grey), predicted]
    tiles = [(c.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy() for c in columns]
    return _montage(tiles)


def first_rows(grid: Image.Image, size: tuple[int, int], count: int) -> Image.Image:
    """Returns the header and at most the first `count` rows of a grid of images of this (height, width)."""
    cell = size[0] * _zoom(size[1]) + GAP
    return grid.crop((0, 0, grid.width, min(grid.height, HEADER + GAP + count * cell)))


def save_png(image: Image.Image, path: Path) -> None:
    """Writes a picture, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _zoom(width: int) -> int:
    return max(1, CELL // width)


def _montage(tiles: list[np.ndarray]) -> Image.Image:
    """Columns of (B, H, W, C) tiles under their names; small images are enlarged to stay visible."""
    count, height, width, channels = tiles[0].shape
    zoom = _zoom(width)
    cell_w, cell_h = width * zoom + GAP, height * zoom + GAP
    sheet = Image.new("RGB", (len(tiles) * cell_w + GAP, count * cell_h + GAP + HEADER), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (name, stack) in enumerate(zip(COLUMNS, tiles, strict=True)):
        draw.text((GAP + column * cell_w, 2), name, fill="black", font_size=HEADER - 8)
        for row, tile in enumerate(stack):
            picture = Image.fromarray(tile if channels == 3 else tile[..., 0]).resize(
                (width * zoom, height * zoom), Image.Resampling.NEAREST
            )
            sheet.paste(picture, (GAP + column * cell_w, HEADER + GAP + row * cell_h))
    return sheet
