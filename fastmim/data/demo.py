"""A small folder of photographs made from those inside installed packages, so that a demo needs no download.

May import tokens, fastmim_kernels and this folder's crops.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from PIL import Image, ImageEnhance

from fastmim_kernels.philox import uniform

from ..tokens import Stream
from .crops import RandomResizedCrop

# Each lies in the package's wheel; scikit-image would download others. Left out: drawings, a second view of the
# motorcycle, and textures of grass and gravel, of which little can be predicted.
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
_CROP = RandomResizedCrop(scale=(0.1, 0.8))
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def write_demo_images(folder: str, count: int = 600, size: tuple[int, int] = (256, 256)) -> None:
    """Writes `count` JPEG files of `size` (height, width): windows of the photographs, flipped and varied in colour.

    Files that exist are kept, so a complete folder is left alone and a half-written one is completed. Image i depends
    on i and `size` only.

    Raises:
        FileNotFoundError: a package that carries photographs is missing, or lacks one.
    """
    os.makedirs(folder, exist_ok=True)
    paths = [os.path.join(folder, f"demo_{i:05d}.jpg") for i in range(count)]
    missing = [i for i in range(count) if not os.path.exists(paths[i])]
    photographs = [_open(*photograph) for photograph in _PHOTOGRAPHS] if missing else []
    ids = torch.tensor(missing, dtype=torch.int64)
    windows = uniform(0, Stream.CROP, ids, _CROP.draws).tolist()
    variations = uniform(0, Stream.FLIP, ids, 1 + len(_ENHANCERS)).tolist()
    for i, window, (flip, *strengths) in zip(missing, windows, variations, strict=True):
        image = _vary(photographs[i % len(photographs)], size, window, flip < 0.5, strengths)
        # A name that the manifest ignores, until the file is whole.
        temporary = os.path.join(folder, f".demo_{i:05d}.tmp")
        image.save(temporary, format="JPEG", quality=90)
        os.replace(temporary, paths[i])
    print(f"demo images: {count} in {folder} ({len(missing)} written, {count - len(missing)} already there)")


def _open(package: str, name: str) -> Image.Image:
    # find_spec does not import the package.
    spec = importlib.util.find_spec(package)
    if spec is None:
        distribution = {"skimage": "scikit-image"}.get(package, package)
        raise FileNotFoundError(f"the demo's photographs come with {distribution}; pip install {distribution}")
    with Image.open(os.path.join(os.path.dirname(spec.origin), name)) as image:
        return image.convert("RGB")


def _vary(
    photograph: Image.Image, size: tuple[int, int], uniforms: list[float], flip: bool, strengths: list[float]
) -> Image.Image:
    """One window of the photograph; brightness, contrast and colour change by at most a fifth."""
    top, left, height, width = _CROP.cut((photograph.height, photograph.width), size, uniforms).window
    image = photograph.crop((left, top, left + width, top + height))
    image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhancer, strength in zip(_ENHANCERS, strengths, strict=True):
        image = enhancer(image).enhance(0.8 + 0.4 * strength)
    return image
