"""The pictures of tests/shapes.py with masks that tell a shape, whichever it is, from the ground.

python -m tests.figures FOLDER     # what `python -m tests.shapes FOLDER` makes; and PART_figures
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from tests.shapes import write_parts


def write_figures(folder: Path) -> None:
    """The parts of `write_parts`; for each of them `PART_figures` with 1 on the shapes, 0 elsewhere."""
    write_parts(folder)
    for mask in sorted(folder.glob("*_masks/*.png")):
        figure = folder / mask.parent.name.replace("_masks", "_figures") / mask.name
        figure.parent.mkdir(exist_ok=True)
        Image.open(mask).point(lambda label: min(label, 1)).save(figure)


if __name__ == "__main__":
    write_figures(Path(sys.argv[1]))
