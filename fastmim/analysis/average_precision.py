"""COCO's average precision, as pycocotools measures it. May import L3 and below."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Container
from typing import Any

from ..data.coco import Annotations

KINDS = ("bbox", "segm")
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
SCORES = tuple(f"{kind}_{name}" for kind in KINDS for name in NAMES)
"""Of boxes and masks, the first six of COCO's summary: mean over overlaps of 0.5 to 0.95, at 0.5, at 0.75; by area in
pixels: below 32^2, below 96^2, and above."""


def average_precision(
    annotations: Annotations, detections: list[dict[str, Any]], left_out: Container[str] = ()
) -> dict[str, float]:
    """Returns the average precisions of detections in COCO's result format.

    Args:
        detections: each with "image_id", "category_id", "bbox" (x, y, width, height), "segmentation" (run-length
            encoded) and "score", in pixels of the whole image; the 100 best of an image count.
        left_out: names of images that do not count, and their objects neither.
    Returns: {name of `SCORES`: 0 to 1}, NaN where there is no object of that size.
    """
    from pycocotools import mask as coco
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [image for name, image in annotations.images.items() if name not in left_out]
    truth = annotations.truth(left_out)
    values = []
    for kind in KINDS:
        # Not `loadRes`, which cannot take an empty list. Entries are copied, as COCOeval writes into them.
        measured = [
            entry | {"id": number, "iscrowd": 0, "area": coco.area(entry["segmentation"])}
            if kind == "segm"
            else entry | {"id": number, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
            for number, entry in enumerate(detections, 1)
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            sides = [COCO(), COCO()]
            for side, entries in zip(sides, ([dict(entry) for entry in truth], measured), strict=True):
                side.dataset = {
                    "images": images,
                    "categories": [{"id": id, "name": name} for id, name in annotations.categories.items()],
                    "annotations": entries,
                }
                side.createIndex()
            evaluation = COCOeval(*sides, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        values += [value if value >= 0 else math.nan for value in evaluation.stats[: len(NAMES)].tolist()]
    return dict(zip(SCORES, values, strict=True))
