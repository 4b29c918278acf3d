"""Picture of reconstructions: original, visible patches, prediction, and both together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..model.objective import Objective
from ..tokens import Mask, patchify, take, unpatchify

GREY = 0.5
"""Value of hidden and of unpredicted patches, on the 0..1 scale."""
CELL = 192
"""Width of a cell, pixels. Smaller images are enlarged by the largest whole number that fits."""
GAP = 4
"""Space between cells, pixels."""
HEADER = 24
"""Height of the line of column names, pixels."""
CAPTION = 20
"""Height of a line of captions, pixels."""
BORROWED = (
    "The model predicts normalised patches. Each hidden patch is drawn with the mean and variance of the true patch, "
    'which the model does not know. "predicting 0" shows that mean alone.'
)


def reconstruction_grid(
    objective: Objective, images: Tensor, mask: Mask, pred: Tensor, notes: Iterable[str] = ()
) -> Image.Image:
    """Draws a row for each image: original, visible patches, predicted patches, and both together.

    Predictions of normalised patches become pixels with the mean and variance of the true patch, because the model does
    not predict mean and variance. A caption says so. A last column shows a model that predicts 0 everywhere.

    Args:
        objective: target and loss of the run.
        images: (B, H, W, C) uint8; C is 1 or 3.
        mask: the visible and hidden patches of the images.
        pred: (B, M, P) predictions of the patches `mask.ids[:, -M:]`. Those of hidden patches are drawn.
        notes: captions, in plain ASCII.
    """
    size, hidden_ids = objective.patch_size, mask.ids_hidden
    patches = patchify(objective.normalize(images), size)
    pred = pred[:, -hidden_ids.shape[1] :].float()
    predicted_of = take(patchify(objective.source(objective.normalize(images)), size), hidden_ids)

    def pasted(pred: Tensor) -> Tensor:
        """Draws predictions into the hidden patches."""
        pixels = objective.target.pixels(pred, predicted_of)
        return image_of(patches.scatter(1, hidden_ids[..., None].expand_as(pixels), pixels))

    def image_of(patches: Tensor) -> Tensor:
        """Joins normalised patches to images on the 0..1 scale."""
        return unpatchify(patches, size, mask.grid) * objective.std.float() + objective.mean.float()

    original, predicted = image_of(patches), pasted(pred)
    hidden = unpatchify(mask.mask[..., None].expand_as(patches), size, mask.grid)
    grey = torch.full_like(original, GREY)
    columns = {
        "original": original,
        "masked": torch.where(hidden, grey, original),
        "reconstruction": torch.where(hidden, predicted, grey),
        "paste-back": predicted,
    }
    captions = list(notes)
    if objective.target.standardizes:
        columns["predicting 0"] = pasted(torch.zeros_like(pred))
        captions.append(BORROWED)
    tiles = {name: (c.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy() for name, c in columns.items()}
    return _montage(tiles, captions)


def take_evenly(items: Sequence, count: int) -> list:
    """Returns `count` evenly spaced items, or all items if there are fewer."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def choose_images(paths: Sequence[str], labels: Sequence[int] | None, count: int) -> list[int]:
    """Chooses images to draw: equally many of each class, evenly spaced within the class.

    Args:
        paths: paths of the images, sorted.
        labels: class of each image; None = the images' folders are the classes.
        count: number of images to choose; fewer images are all chosen.

    Returns:
        Positions in `paths`, ascending.
    """
    classes: dict[object, list[int]] = {}
    for position, path in enumerate(paths):
        classes.setdefault(os.path.dirname(path) if labels is None else labels[position], []).append(position)
    groups = take_evenly(list(classes.values()), count)
    shares, left = [0] * len(groups), min(count, len(paths))
    while left:  # at most `count` rounds, because each round gives at least one image
        for number, group in enumerate(groups):
            if left and shares[number] < len(group):
                shares[number] += 1
                left -= 1
    return sorted(
        position for group, share in zip(groups, shares, strict=True) for position in take_evenly(group, share)
    )


def _zoom(width: int) -> int:
    return max(1, CELL // width)


def _montage(tiles: dict[str, np.ndarray], captions: list[str]) -> Image.Image:
    """Draws named columns of (B, H, W, C) tiles above captions, with small images enlarged."""
    count, height, width, channels = next(iter(tiles.values())).shape
    zoom = _zoom(width)
    cell_w, cell_h = width * zoom + GAP, height * zoom + GAP
    sheet_width, bottom = len(tiles) * cell_w + GAP, HEADER + GAP + count * cell_h
    lines = [line for caption in captions for line in _wrapped(caption, sheet_width - 2 * GAP)]
    sheet = Image.new("RGB", (sheet_width, bottom + CAPTION * len(lines)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((GAP, bottom + number * CAPTION), line, fill="black", font_size=CAPTION - 6)
    for column, (name, stack) in enumerate(tiles.items()):
        draw.text((GAP + column * cell_w, 2), name, fill="black", font_size=HEADER - 8)
        for row, tile in enumerate(stack):
            picture = Image.fromarray(tile if channels == 3 else tile[..., 0]).resize(
                (width * zoom, height * zoom), Image.Resampling.NEAREST
            )
            sheet.paste(picture, (GAP + column * cell_w, HEADER + GAP + row * cell_h))
    return sheet


def _wrapped(text: str, width: int) -> list[str]:
    """Breaks a caption into lines of at most `width` pixels."""
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font_size=CAPTION - 6) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
