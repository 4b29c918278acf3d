"""COCO's average precision, measured by pycocotools."""

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
"""Names of the scores: the first six of COCO's summary, for boxes ("bbox") and masks ("segm").

AP is the mean over overlaps of 0.5 to 0.95. AP50 and AP75 are the values at one overlap. Small objects have an area
below 32^2 pixels, medium objects below 96^2, large objects more.
"""


def average_precision(
    annotations: Annotations, detections: list[dict[str, Any]], left_out: Container[str] = ()
) -> dict[str, float]:
    """Measures the average precision of detections in COCO's result format.

    Args:
        annotations: the images and their objects.
        detections: each with "image_id", "category_id", "bbox" (x, y, width, height), "segmentation" (run-length
            encoded) and "score", in pixels of the whole image. The 100 best detections of an image count.
        left_out: names of images to ignore, with their objects.

    Returns:
        {name of `SCORES`: 0 to 1}, with NaN where no object has that size.
    """
    import pycocotools.coco
    import pycocotools.cocoeval
    from pycocotools import mask as coco

    # The stubs of pycocotools lack some fields of COCO's file format.
    index: Any = pycocotools.coco.COCO
    evaluate: Any = pycocotools.cocoeval.COCOeval
    images = [image for name, image in annotations.images.items() if name not in left_out]
    truth = annotations.truth(left_out)
    values = []
    for kind in KINDS:
        # Not `loadRes`, which fails on an empty list. Entries are copied, because COCOeval writes into them.
        measured = [
            entry | {"id": number, "iscrowd": 0, "area": coco.area(entry["segmentation"])}
            if kind == "segm"
            else entry | {"id": number, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
            for number, entry in enumerate(detections, 1)
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            sides = [index(), index()]
            for side, entries in zip(sides, ([dict(entry) for entry in truth], measured), strict=True):
                side.dataset = {
                    "images": images,
                    "categories": [{"id": id, "name": name} for id, name in annotations.categories.items()],
                    "annotations": entries,
                }
                side.createIndex()
            evaluation = evaluate(*sides, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        values += [value if value >= 0 else math.nan for value in evaluation.stats[: len(NAMES)].tolist()]
    return dict(zip(SCORES, values, strict=True))
