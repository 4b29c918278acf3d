"""Images for the tests of the data path, made from random numbers."""

import numpy as np
import pytest
from PIL import Image

from fastmim.config.base import Data
from fastmim.data import availability
from fastmim.data.crops import RandomResizedCrop
from tests.data.hostile import write_hostile


def _picture(height, width, channels=3, seed=0):
    """Returns a smooth picture with some noise, which resizing and flipping change."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (4, 5, channels), dtype=np.uint8)
    planes = [
        Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)
    ]
    pixels = np.stack([np.asarray(p) for p in planes], axis=-1).astype(int) + rng.integers(
        -9, 9, (height, width, channels)
    )
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def picture():
    return _picture


@pytest.fixture
def impatient(monkeypatch):
    """Makes the loader read unreadable files again at once."""
    monkeypatch.setattr(availability, "_FILE_PAUSES", (0.0,))


@pytest.fixture
def make_folder(tmp_path):
    """Returns make_folder(names), which writes a small image under each name below tmp_path / "images"."""

    def make(names, height=12, width=16):
        root = tmp_path / "images"
        for i, name in enumerate(names):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_picture(height, width, seed=i)).save(path)
        return root

    return make


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Makes a folder of 12 JPEG files of different sizes."""
    root = tmp_path_factory.mktemp("photographs")
    for i in range(12):
        Image.fromarray(_picture(60 + 7 * i, 90 - 3 * i, seed=i)).save(root / f"{i:02d}.jpg", quality=90)
    return root


@pytest.fixture
def hostile(tmp_path):
    """Writes the hostile corpus, before `spoil`; returns (folder, description of each image)."""
    folder = tmp_path / "hostile"
    return folder, write_hostile(folder)


@pytest.fixture
def data():
    """Returns data(**changes), which makes a data section for 32 x 24 samples."""

    def make(crop=None, **changes):
        return Data(crop=crop or RandomResizedCrop(), **{"size": (32, 24)} | changes)

    return make
