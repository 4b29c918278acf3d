"""The demo's images, made from photographs of installed packages, without a download."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
from PIL import Image, ImageDraw, ImageEnhance

from fastmim_kernels.philox import uniform

from ..host.extras import PACKAGES
from ..host.files import writing
from ..host.terminal import shown
from ..samples import Stream
from .crops import RandomResizedCrop
from .image import open_image

Part = Literal["all", "train", "held_out"]

# Only photographs inside the wheels, because scikit-image would download the others. The list leaves out drawings, a
# second view of the motorcycle, and textures of grass and gravel, whose hidden patches are hard to predict.
_PHOTOGRAPHS = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/brick.png"),
    ("skimage", "data/camera.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/coins.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/ihc.png"),
    ("skimage", "data/moon.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/retina.jpg"),
    ("skimage", "data/rocket.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
_HELD_OUT = ("data/astronaut.png", "data/chelsea.png", "data/coffee.png")
_SEEDS = {"all": 0, "train": 0, "held_out": 6}  # with this seed, the first held-out pictures are easy to recognise
_CROPS = {
    "all": RandomResizedCrop(scale=(0.1, 0.8)),
    "train": RandomResizedCrop(scale=(0.01, 0.15)),
    "held_out": RandomResizedCrop(scale=(0.01, 0.1)),
}
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
_ELLIPSE = 40  # corners of the polygon that stands for an ellipse


def write_demo_images(folder: str, count: int = 600, size: tuple[int, int] = (256, 256), part: Part = "all") -> None:
    """Writes JPEG files with windows of photographs, flipped and varied in colour.

    Image i depends only on i, `size` and `part`. Existing files are kept, so a half-written folder is completed.

    Args:
        folder: folder of the files, created if missing.
        count: number of images.
        size: (height, width) of each image in pixels.
        part: "all" uses every photograph, "held_out" three photographs, and "train" the others. In "train", colours
            vary more, and every second image is a drawing of overlapping shapes.

    Raises:
        FileNotFoundError: a package with photographs is not installed, or a photograph is missing in it.
    """
    os.makedirs(folder, exist_ok=True)
    paths = [os.path.join(folder, f"demo_{i:05d}.jpg") for i in range(count)]
    missing = [i for i in range(count) if not os.path.lexists(paths[i])]
    wanted = [p for p in _PHOTOGRAPHS if part == "all" or (p[1] in _HELD_OUT) == (part == "held_out")]
    photographs = [_open(*photograph) for photograph in wanted] if missing else []
    ids = torch.tensor(missing, dtype=torch.int64)
    seed, crop = _SEEDS[part], _CROPS[part]
    windows = uniform(seed, Stream.CROP, ids, crop.draws).tolist()
    variations = uniform(seed, Stream.FLIP, ids, 1 + len(_ENHANCERS)).tolist()
    turns = 2 if part == "train" else 1  # every second training picture is a drawing
    for i, uniforms, (flip, *strengths) in zip(missing, windows, variations, strict=True):
        if i % turns:
            image = _draw(photographs, size, Random(i))
        else:
            photograph = photographs[i // turns % len(photographs)]
            cut = crop.cut((photograph.height, photograph.width), size, uniforms)
            image = _vary(photograph, cut.window, size, flip < 0.5, strengths)
            image = _recolour(image, Random(i)) if part == "train" else image
        with writing(Path(paths[i])) as file:
            image.save(file, "JPEG", quality=90)
    print(f"demo images: {count} in {shown(folder)} ({len(missing)} written, {count - len(missing)} already there)")


def _open(package: str, name: str) -> Image.Image:
    # find_spec does not import the package.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        distribution = PACKAGES.get(package, package)
        raise FileNotFoundError(f"the demo's photographs come with {distribution}: run `pip install {distribution}`")
    return open_image(os.path.join(os.path.dirname(spec.origin), name)).convert("RGB")


def _vary(
    photograph: Image.Image,
    window: tuple[int, int, int, int],
    size: tuple[int, int],
    flip: bool,
    strengths: list[float],
) -> Image.Image:
    """Returns a window of a photograph, with brightness, contrast and colour changed by at most a fifth."""
    top, left, height, width = window
    image = photograph.crop((left, top, left + width, top + height))
    image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhancer, strength in zip(_ENHANCERS, strengths, strict=True):
        image = enhancer(image).enhance(0.8 + 0.4 * strength)
    return image


def _recolour(image: Image.Image, random: Random) -> Image.Image:
    """Shuffles, scales and shifts the channels, so that few photographs give many colours."""
    channels = sorted(image.split(), key=lambda _: random.random())
    lines = [(random.uniform(0.7, 1.3), random.uniform(-25, 25)) for _ in channels]
    return Image.merge(
        "RGB", [c.point(lambda v, a=a, b=b: a * v + b) for c, (a, b) in zip(channels, lines, strict=True)]
    )


def _draw(photographs: list[Image.Image], size: tuple[int, int], random: Random) -> Image.Image:
    """Draws overlapping polygons and ellipses, unevenly lit.

    Their colours are random, or come from the photographs.
    """

    def colour() -> tuple[int, ...]:
        if random.random() < 0.4:
            return tuple(int(256 * random.random()) for _ in range(3))
        photograph = photographs[int(len(photographs) * random.random())]
        place = int(photograph.width * random.random()), int(photograph.height * random.random())
        pixel: Any = photograph.getpixel(place)  # a tuple, as the photographs are RGB
        return pixel

    height, width = 2 * size[0], 2 * size[1]  # reduced to half at the end, for smooth edges
    image = Image.new("RGB", (width, height), colour())
    draw = ImageDraw.Draw(image)
    for _ in range(4 + int(20 * random.random())):
        radius = 0.05 * max(size) * 24 ** random.random()
        flat, turn = random.uniform(0.15, 1), random.uniform(0, math.pi)
        x, y = random.uniform(0, width), random.uniform(0, height)
        corners = (3, 4, 4, 5, _ELLIPSE, _ELLIPSE, _ELLIPSE)[int(7 * random.random())]
        points = []
        for corner in range(corners):
            angle = 2 * math.pi * corner / corners
            across, along = radius * math.cos(angle), flat * radius * math.sin(angle)
            points.append((x + across * math.cos(turn) - along * math.sin(turn),
                           y + across * math.sin(turn) + along * math.cos(turn)))  # fmt: skip
        draw.polygon(points, fill=colour())
    light = Image.new("RGB", (3, 3))
    light.putdata([colour() for _ in range(9)])
    return Image.blend(image.reduce(2), light.resize((size[1], size[0]), Image.Resampling.BICUBIC), 0.12)
