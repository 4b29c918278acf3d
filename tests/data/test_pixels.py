"""Tests that DALI's pixels differ from Pillow's at most by the bounds in fastmim/data/README.md."""

import re
import tarfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastmim.data.crops import RandomResizedCrop, SimpleResizedCrop
from fastmim.data.loader import open_loader
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import Quarantine
from fastmim.samples import sample_id
from tests.sweep import covering

README = Path(__file__).parents[2] / "fastmim/data/README.md"
ROW = re.compile(r"^\| (?P<kind>[^|]+?) \| (?P<decoder>DALI|Pillow) \| (?P<mean>[\d.]+) \| (?P<max>\d+) \|$", re.M)
TABLE = {m["kind"]: (m["decoder"], float(m["mean"]), int(m["max"])) for m in ROW.finditer(README.read_text())}


def oriented(image, path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, quality=90, exif=exif)


def wide_samples(path, pixels):
    """Returns a 16-bit gray PNG."""
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)


KINDS = {
    "JPEG RGB": ("x.jpg", lambda image, path: image.save(path, quality=90)),
    "JPEG RGB 4:4:4": ("x.jpg", lambda image, path: image.save(path, quality=90, subsampling=0)),
    "JPEG RGB 4:2:2": ("x.jpg", lambda image, path: image.save(path, quality=90, subsampling=1)),
    "JPEG RGB quality 30": ("x.jpg", lambda image, path: image.save(path, quality=30)),
    "JPEG progressive": ("x.jpg", lambda image, path: image.save(path, quality=90, progressive=True)),
    "JPEG grayscale": ("x.jpg", lambda image, path: image.convert("L").save(path, quality=90)),
    "JPEG CMYK": ("x.jpg", lambda image, path: image.convert("CMYK").save(path, quality=90)),
    "JPEG EXIF-rotated": ("x.jpg", lambda image, path: oriented(image, path, 6)),
    "JPEG EXIF-mirrored": ("x.jpg", lambda image, path: oriented(image, path, 2)),
    "JPEG 1x1": ("x.jpg", lambda image, path: image.resize((1, 1)).save(path)),
    "JPEG 1x4000": ("x.jpg", lambda image, path: image.resize((1, 4000)).save(path)),
    "JPEG 4000x1": ("x.jpg", lambda image, path: image.resize((4000, 1)).save(path)),
    "PNG RGB": ("x.png", lambda image, path: image.save(path)),
    "PNG 16-bit": ("x.png", lambda image, path: wide_samples(path, np.asarray(image))),
    "PNG palette": ("x.png", lambda image, path: image.quantize(64).save(path)),
    "PNG alpha": ("x.png", lambda image, path: image.convert("RGBA").save(path)),
    "WebP": ("x.webp", lambda image, path: image.save(path)),
    "GIF": ("x.gif", lambda image, path: image.save(path)),
    "BMP": ("x.bmp", lambda image, path: image.save(path)),
    "TIFF": ("x.tif", lambda image, path: image.save(path)),
}


def samples(folder, data, name, ids):
    manifest = Manifest.scan(str(folder))
    settings = replace(data, loader=name)
    with open_loader(
        manifest, settings, 0, Quarantine(manifest, 0), torch.arange(len(manifest)), torch.device("cpu")
    ) as loader:
        images = torch.cat([loader.load(ids), loader.load_held_out(torch.tensor([0]))[0]])
        assert not loader.bad_files()
    return images.int()


def test_the_table_is_of_these_kinds():
    assert set(TABLE) == set(KINDS)


SWEEP = list(product(KINDS, ("bicubic", "bilinear"), (3, 1), (RandomResizedCrop, SimpleResizedCrop)))


@pytest.mark.parametrize(("kind", "interpolation", "channels", "crop"), covering(SWEEP))
def test_difference(tmp_path, data, picture, kind, interpolation, channels, crop):
    """The cuts are random windows or borders, enlarged or reduced, flipped or not, and the centre."""
    name, write = KINDS[kind]
    write(Image.fromarray(picture(190, 250)), tmp_path / name)
    settings = data(size=(96, 80), mean=(0.5,) * channels, std=(0.5,) * channels)
    settings = replace(settings, crop=crop(interpolation=interpolation))
    ids = sample_id(torch.zeros(12, dtype=torch.int64), torch.arange(12))
    ours, expected = (samples(tmp_path, settings, loader, ids) for loader in ("dali", "pillow"))
    difference = (ours - expected).abs()
    decoder, mean, largest = TABLE[kind]
    assert difference.float().mean() <= mean and difference.max() <= largest
    if decoder == "Pillow":
        assert (mean, largest) == (0, 0)


SAMPLE = sorted((Path(__file__).parents[3] / "shared/data").glob("imagenet-sample-*.tar"))


@pytest.mark.skipif(not SAMPLE, reason="needs ../shared/data, which is not part of the project")
@pytest.mark.parametrize(("interpolation", "mean", "largest"), [("bicubic", 0.05, 40), ("bilinear", 0.05, 3)])
def test_photographs(tmp_path, data, interpolation, mean, largest):
    with tarfile.open(SAMPLE[0]) as archive:
        for member in [m for m in archive if m.isfile()][:48]:
            (tmp_path / Path(member.name).name).write_bytes(archive.extractfile(member).read())
    settings = data(size=(224, 224))
    settings = replace(settings, crop=replace(settings.crop, interpolation=interpolation))
    ours, expected = (samples(tmp_path, settings, loader, torch.arange(48)) for loader in ("dali", "pillow"))
    difference = (ours - expected).abs()
    assert difference.float().mean() <= mean and difference.max() <= largest
    assert (difference > 2).float().mean() < 1e-3
