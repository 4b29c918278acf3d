"""PixMIM: the low-pass target against the official outputs (tests/golden), what it must do, and the published model."""

import math
from pathlib import Path

import pytest
import torch

from fastmim.losses import MaskedL2
from fastmim.objective import Objective
from fastmim.targets import LowPass
from fastmim.tokens import patchify

CONFIGS = Path(__file__).parents[2] / "configs"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
CASES = [("64", 5), ("64", 10), ("64", 20), ("64", 40), ("48x64", 10), ("224", 10), ("224", 40)]


def filtered(pixels, target):
    """The filter on (H, W) pixels of one channel, on the 0..1 scale, in float64."""
    mean, std = torch.tensor([0.5]).double(), torch.tensor([0.2]).double()
    images = (pixels.double()[None, ..., None] - mean) / std
    return (target.source(images, mean, std) * std + mean)[0, ..., 0]


@pytest.mark.parametrize(("size", "radius"), CASES)
def test_official_targets_and_filters(golden, size, radius):
    data = golden("pixmim_lowfreq")
    images = data[f"img{size}"].float().permute(0, 2, 3, 1)
    target = LowPass(radius)
    disc = torch.fft.fftshift(target.disc(tuple(images.shape[1:3])))
    assert torch.equal(disc, data[f"filter{size}_r{radius}"].bool())
    expected = data[f"target{size}_r{radius}"].permute(0, 2, 3, 1)
    torch.testing.assert_close(target.source(images, MEAN, STD), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("size", "radius", "count"), [(224, 40, 5024), (448, 40, 5024), (448, 80, 20108), (224, 20, 1264), (224, 80, 20108)]
)
def test_number_of_frequencies(size, radius, count):
    assert LowPass(radius).disc((size, size)).sum() == count


def test_disc_is_half_a_bin_off_on_even_sides_only():
    for size, expected in ((224, range(-40, 40)), (225, range(-40, 41))):
        kept = LowPass(40).disc((size, 1)).nonzero()[:, 0].tolist()
        assert sorted(k - size if k > 112 else k for k in kept) == list(expected)
    for size in ((224, 224), (225, 225), (48, 65)):
        disc = LowPass(10, center="dc").disc(size)
        assert disc[0, 0] and torch.equal(disc[1:, 1:], disc[1:, 1:].flip(0, 1)) and disc[10, 0] and not disc[11, 0]
    assert torch.equal(LowPass(10).disc((33, 65)), LowPass(10, center="dc").disc((33, 65)))
    assert LowPass(40, center="dc").disc((224, 224)).sum() == 5025


@pytest.mark.parametrize("center", ["official", "dc"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_images_stay(center, value):
    pixels = torch.full((48, 65), value)
    torch.testing.assert_close(filtered(pixels, LowPass(10, center)), pixels.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_waves(axis):
    """Of 0.5 + 0.3 cos: both halves remain up to 39 cycles, one at 40, which the modulus shows, none beyond."""

    def wave(cycles):
        line = 0.5 + 0.3 * (2 * math.pi * cycles / 224 * torch.arange(224).double()).cos()
        image = line[:, None].expand(224, 224)
        return image if axis == 0 else image.T

    torch.testing.assert_close(filtered(wave(39), LowPass()), wave(39), rtol=0, atol=1e-12)
    half = filtered(wave(40), LowPass())
    assert half.min().item() == pytest.approx(0.35) and half.max().item() == pytest.approx(0.65)
    torch.testing.assert_close(filtered(wave(41), LowPass()), torch.full((224, 224), 0.5).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(filtered(wave(40), LowPass(center="dc")), wave(40), rtol=0, atol=1e-12)


def test_noise_keeps_its_share_of_energy():
    torch.manual_seed(0)
    noise = torch.randn(224, 224)
    kept = filtered(100 + noise, LowPass()) - 100  # far from zero, where the modulus is the real part
    assert kept.square().mean() / noise.square().mean() == pytest.approx(0.1, rel=0.05)


def test_flip_comes_first():
    """The official disc is not symmetric, so flipping the filtered image is not the same; the symmetric one is."""
    torch.manual_seed(0)
    pixels = torch.rand(224, 224)
    difference = {
        center: (filtered(pixels.flip(1), LowPass(center=center)) - filtered(pixels, LowPass(center=center)).flip(1))
        for center in ("official", "dc")
    }
    assert 0.01 < difference["official"].abs().max() < 0.1
    assert difference["dc"].abs().max() < 1e-12


def test_patches_are_standardised_after_the_filter():
    torch.manual_seed(0)
    images = torch.randn(2, 64, 64, 3)
    patches = patchify(LowPass(10).source(images, MEAN, STD), 16)
    expected = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(LowPass(10)(images, 16, MEAN, STD), expected)
    torch.testing.assert_close(LowPass(10, norm_pix=False)(images, 16, MEAN, STD), patches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    torch.manual_seed(0)
    images = torch.randn(2, 32, 32, 3).to(dtype)
    expected = LowPass(8).source(images.float(), MEAN, STD)
    with torch.autocast("cpu", torch.bfloat16):
        got = LowPass(8).source(images, MEAN, STD)
    assert got.dtype == torch.float32 and torch.equal(got, expected)


def test_float32_is_close_to_float64_on_photographic_values():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    objective = Objective(LowPass(), MaskedL2(), 16, MEAN.tolist(), STD.tolist())
    exact = LowPass().source(objective.normalize(images).double(), MEAN.double(), STD.double())
    grey_levels = 255 * ((objective.source(images) - exact) * STD).abs()
    assert grey_levels.max() < 5e-4


@pytest.mark.parametrize(("fields", "message"), [(dict(radius=0), "at least 1"), (dict(center="DC"), "center is")])
def test_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LowPass(**fields)
