"""Pictures of rectangles, discs and triangles, with annotations in COCO's format and label maps.

python -m tests.shapes FOLDER      # all, few and test; each with PART.json, PART_masks and PART_figures
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

CATEGORIES = {3: "rectangle", 7: "disc", 11: "triangle"}
NOISE = 6.0  # standard deviation of the noise, of 255


def write_shapes(folder: Path, part: str, count: int, seed: int, side: int = 96, most: int = 4) -> None:
    """Writes pictures of shapes that do not touch. Colours are random and say nothing about the shape.

    Writes the images `folder/part`; the annotations `folder/part.json` (polygons for rectangles and triangles, run
    lengths for discs); and the label maps `folder/part_masks` (0 = ground, n = n-th category of `CATEGORIES`).

    Args:
        folder: folder to write into.
        part: name of the set of pictures.
        count: number of pictures.
        seed: seed of the pictures.
        side: largest side of a picture, pixels; the smallest is three quarters of it.
        most: most shapes on a picture.
    """
    generator = np.random.default_rng(seed)
    images, annotations = [], []
    for name in (part, f"{part}_masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        height, width = (int(n) for n in generator.integers(3 * side // 4, side + 1, 2))
        ground = generator.uniform(30, 225, 3)
        pixels = np.tile(ground, (height, width, 1))
        taken, labels = np.zeros((height, width), bool), np.zeros((height, width), np.uint8)
        for _ in range(generator.integers(1, most + 1)):
            category = int(generator.choice(list(CATEGORIES)))
            w, h = (int(n) for n in generator.integers(side // 4, side // 2, 2))
            if category == 7:
                h = w
            x, y = int(generator.integers(0, width - w)), int(generator.integers(0, height - h))
            if taken[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2].any():
                continue
            taken[y : y + h, x : x + w] = True
            segmentation, mask = outline(category, x, y, w, h, (height, width))
            pixels[mask] = (ground + 127.5 + generator.uniform(-80, 80, 3)) % 255
            labels[mask] = 1 + list(CATEGORIES).index(category)
            entry = {"id": len(annotations), "image_id": 100 + number, "category_id": category, "iscrowd": 0}
            entry |= {"bbox": [x, y, w, h], "area": int(mask.sum()), "segmentation": segmentation}
            annotations.append(entry)
        name = f"{number:04d}.png"
        pixels += generator.normal(0, NOISE, pixels.shape)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / part / name)
        Image.fromarray(labels).save(folder / f"{part}_masks" / name)
        images.append({"id": 100 + number, "file_name": name, "height": height, "width": width})
    categories = [{"id": id, "name": name} for id, name in CATEGORIES.items()]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (folder / f"{part}.json").write_text(text)


def outline(category: int, x: int, y: int, w: int, h: int, size: tuple[int, int]) -> tuple:
    """Returns the segmentation, in COCO's format, of a shape that fills a box, and its (H, W) bool mask."""
    if category == 7:
        rows, columns = np.ogrid[: size[0], : size[1]]
        mask = (columns + 0.5 - x - w / 2) ** 2 + (rows + 0.5 - y - h / 2) ** 2 < (w / 2) ** 2
        flat = mask.flatten(order="F")
        changes = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *changes, flat.size]).tolist()
        return {"size": list(size), "counts": [0, *counts] if flat[0] else counts}, mask
    points = [x, y, x + w, y, x + w, y + h, x, y + h] if category == 3 else [x, y + h, x + w / 2, y, x + w, y + h]
    return [points], coco.decode(coco.merge(coco.frPyObjects([points], *size))).astype(bool)


def write_parts(folder: Path) -> None:
    """Writes 2000 pictures for pre-training, 32 for training with labels, and 100 for testing, of up to 64 pixels.

    Each part also has `folder/part_figures`: label maps with 1 on every shape and 0 elsewhere.
    """
    for part, count, seed in (("all", 2000, 1), ("few", 32, 2), ("test", 100, 3)):
        write_shapes(folder, part, count, seed, side=64)
        (folder / f"{part}_figures").mkdir(exist_ok=True)
        for mask in (folder / f"{part}_masks").iterdir():
            Image.open(mask).point(lambda label: min(label, 1)).save(folder / f"{part}_figures" / mask.name)


if __name__ == "__main__":
    write_parts(Path(sys.argv[1]))
