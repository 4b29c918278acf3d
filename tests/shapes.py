"""Pictures of shapes for detection and segmentation: discs, squares and triangles on noise, with what is where.

`python -m tests.shapes FOLDER` writes train and test images and masks of labels.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

NAMES = ("disc", "square", "triangle")
COLOURS = ((200, 90, 80), (90, 190, 90), (90, 100, 210))


class Shape(NamedTuple):
    """kind: index of `NAMES`. mask: (H, W) bool of what is seen of it: later shapes hide earlier ones."""

    kind: int
    mask: np.ndarray


def picture(seed: int, height: int = 64, width: int = 80) -> tuple[np.ndarray, list[Shape]]:
    """(H, W, 3) uint8 and one to four shapes; the colour of a kind varies, and background and shapes are noisy."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(60, 180, 3) + rng.normal(0, 25, (height, width, 1))
    y, x = np.mgrid[:height, :width]
    shapes: list[Shape] = []
    for _ in range(rng.integers(1, 5)):
        kind, radius = int(rng.integers(3)), rng.uniform(0.12, 0.25) * min(height, width)
        dy, dx = y - rng.uniform(radius, height - radius), x - rng.uniform(radius, width - radius)
        inside = (
            dy**2 + dx**2 <= radius**2,
            np.maximum(abs(dy), abs(dx)) <= 0.85 * radius,
            (dy <= 0.8 * radius) & (abs(dx) <= (dy + radius) / 1.8),
        )[kind]
        pixels = np.where(
            inside[..., None], COLOURS[kind] + rng.normal(0, 30, 3) + rng.normal(0, 25, (height, width, 1)), pixels
        )
        shapes = [Shape(shape.kind, shape.mask & ~inside) for shape in shapes] + [Shape(kind, inside)]
    return np.clip(pixels, 0, 255).astype(np.uint8), [shape for shape in shapes if shape.mask.any()]


def label_mask(shapes: list[Shape], size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8: 0 where nothing is, else the kind + 1."""
    labels = np.zeros(size, dtype=np.uint8)
    for shape in shapes:
        labels[shape.mask] = shape.kind + 1
    return labels


def write_masks(folder: Path, part: str, count: int, first: int = 0, **size: int) -> None:
    """`count` images below folder/images/part, their label masks below folder/masks/part."""
    for kind in ("images", "masks"):
        (folder / kind / part).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels, shapes = picture(first + i, **size)
        Image.fromarray(pixels).save(folder / f"images/{part}/{i:05d}.png")
        Image.fromarray(label_mask(shapes, pixels.shape[:2])).save(folder / f"masks/{part}/{i:05d}.png")


if __name__ == "__main__":
    for part, count, first in (("train", 1000, 0), ("test", 200, 1_000_000)):
        write_masks(Path(sys.argv[1]), part, count, first)
