"""PixMIM: the low-pass target equals the official outputs (tests/golden), and the published model is ours."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.published import convmae, lsmae, pixmim
from fastmim.config.config_file import load
from fastmim.convert import official_weights
from fastmim.data.crops import SimpleResizedCrop
from fastmim.model.losses import MaskedL1, MaskedL2
from fastmim.model.masking import RandomMasking
from fastmim.model.objective import Objective
from fastmim.model.targets import LowPass
from fastmim.parts import ImageSpec
from fastmim.tasks.pretrain import build
from fastmim.tokens import patchify, sincos_position_embedding
from fastmim_kernels import use_reference
from fastmim_kernels.low_pass.reference import disc, low_pass

CONFIGS = Path(__file__).parents[2] / "configs"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
CASES = [("64", 5), ("64", 10), ("64", 20), ("64", 40), ("48x64", 10), ("224", 10), ("224", 40)]


def filtered(pixels, target):
    """Filters (H, W) pixels of one channel, on the 0..1 scale, in float64."""
    mean, std = torch.tensor([0.5]).double(), torch.tensor([0.2]).double()
    images = (pixels.double()[None, ..., None] - mean) / std
    kept = low_pass(images, None, 1, mean, std, target.radius, target.center == "official", False)
    return (kept * std + mean)[0, ..., 0]


@pytest.mark.parametrize(("size", "radius"), CASES)
def test_official_targets_and_filters(golden, size, radius):
    data = golden("pixmim_lowfreq")
    images = data[f"img{size}"].float().permute(0, 2, 3, 1)
    target = LowPass(radius)
    kept = torch.fft.fftshift(disc(tuple(images.shape[1:3]), radius, True))
    assert torch.equal(kept, data[f"filter{size}_r{radius}"].bool())
    expected = data[f"target{size}_r{radius}"].permute(0, 2, 3, 1)
    torch.testing.assert_close(target.source(images, MEAN, STD), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("size", "radius", "count"), [(224, 40, 5024), (448, 40, 5024), (448, 80, 20108), (224, 20, 1264), (224, 80, 20108)]
)
def test_number_of_frequencies(size, radius, count):
    assert disc((size, size), radius, True).sum() == count


def test_disc_is_half_a_bin_off_on_even_sides_only():
    for size, expected in ((224, range(-40, 40)), (225, range(-40, 41))):
        kept = disc((size, 1), 40, True).nonzero()[:, 0].tolist()
        assert sorted(k - size if k > 112 else k for k in kept) == list(expected)
    for size in ((224, 224), (225, 225), (48, 65)):
        kept = disc(size, 10, False)
        assert kept[0, 0] and torch.equal(kept[1:, 1:], kept[1:, 1:].flip(0, 1)) and kept[10, 0] and not kept[11, 0]
    assert torch.equal(disc((33, 65), 10, True), disc((33, 65), 10, False))
    assert disc((224, 224), 40, False).sum() == 5025


@pytest.mark.parametrize("center", ["official", "dc"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_images_stay(center, value):
    pixels = torch.full((48, 65), value)
    torch.testing.assert_close(filtered(pixels, LowPass(10, center)), pixels.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_waves(axis):
    """Of 0.5 + 0.3 cos, both halves remain up to 39 cycles, one half at 40, and nothing beyond."""

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
    """Flipping and filtering commute with the symmetric disc, but not with the official one."""
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
    objective = Objective(LowPass(), MaskedL2(), 16, ImageSpec((224, 224), tuple(MEAN.tolist()), tuple(STD.tolist())))
    exact = low_pass(images, None, 1, MEAN.double(), STD.double(), 40, True, False)
    grey_levels = 255 * ((objective.source(images) - exact) * STD).abs()
    assert grey_levels.max() < 5e-4


def test_kernel_and_reference_give_the_same_loss():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 96, 64, 3), dtype=torch.uint8)
    objective = Objective(LowPass(12), MaskedL2(), 16, ImageSpec((96, 64), tuple(MEAN.tolist()), tuple(STD.tolist())))
    mask = RandomMasking()(0, torch.arange(3), (6, 4), 16)
    pred = torch.randn(3, 18, 768)
    losses = []
    for on_reference in (False, True):
        use_reference(on_reference)
        try:
            losses.append(objective(pred, images, mask))
        finally:
            use_reference(False)
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)


def test_tf32_reaches_the_op(monkeypatch):
    """`allow_tf32` changes nothing on a CPU."""
    images, given = torch.randn(1, 32, 32, 3), []
    monkeypatch.setattr("fastmim.model.targets.low_pass", lambda *_, **options: given.append(options["allow_tf32"]))
    for target in (LowPass(8), LowPass(8, allow_tf32=True)):
        target.source(images, MEAN, STD)
    assert given == [False, True]
    monkeypatch.undo()
    assert torch.equal(*(LowPass(8, allow_tf32=fast).source(images, MEAN, STD) for fast in (False, True)))


@pytest.mark.parametrize(("fields", "message"), [(dict(radius=0), "at least 1"), (dict(center="DC"), "center is")])
def test_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LowPass(**fields)


def test_position_tables_are_loaded_not_regenerated():
    """mmselfsup's position tables are the transpose of ours on a square grid: they put the row first."""
    table = sincos_position_embedding(16, (3, 3), num_prefix_tokens=1)
    rows_first = torch.cat([table[:, :1], table[:, 1:].unflatten(1, (3, 3)).transpose(1, 2).flatten(1, 2)], dim=1)
    assert torch.equal(rows_first[..., :8], table[..., 8:]) and not torch.equal(rows_first, table)
    (fmt,) = [fmt for fmt in official_weights.FORMATS if fmt.name == "PixMIM (open-mmlab/mmselfsup)"]
    state, _ = fmt.to_ours({"backbone.pos_embed": rows_first, "neck.decoder_pos_embed": 2 * rows_first})
    assert torch.equal(state["encoder.pos_embed"], rows_first)
    assert torch.equal(state["decoder.pos_embed"], 2 * rows_first)


@pytest.mark.parametrize(
    "row", ["vit_base_patch16_224_800ep", "convmae_base_224_1600ep", "lsmae_vit_base_patch16_448_800ep"]
)
def test_rows(row):
    """Each row names a published model, and differs from its base by PixMIM's two changes only."""
    config = load(CONFIGS / f"pixmim/pretrain/{row}.py")
    module = {"vit": pixmim, "convmae": convmae, "lsmae": lsmae}[row.split("_")[0]]
    with torch.device("meta"):
        ours, published = build(config), module.from_config(config, "sdpa")
    trained = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, published)]
    assert trained[0] == trained[1]
    assert config.target == LowPass(40) and config.data.crop == SimpleResizedCrop(4, interpolation="bilinear")


@pytest.mark.parametrize(
    ("module", "row", "change", "message"),
    [
        (pixmim, "mae/pretrain/vit_base_patch16_224_300ep", {}, "ViT, NormalizedPatches"),
        (pixmim, "pixmim/pretrain/lsmae_vit_base_patch16_448_800ep", {}, "has JointMasking"),
        (pixmim, "pixmim/pretrain/convmae_base_224_1600ep", {}, "RandomMasking, ConvMAE, LowPass"),
        (pixmim, "pixmim/pretrain/vit_base_patch16_224_300ep", {"target": LowPass(center="dc")}, 'center "official"'),
        (convmae, "pixmim/pretrain/vit_base_patch16_224_300ep", {}, "has RandomMasking, ViT"),
        (lsmae, "mae/pretrain/vit_base_patch16_224_300ep", {}, "has RandomMasking, ViT"),
        (lsmae, "lsmae/pretrain/vit_base_patch16_448_800ep", {"loss": MaskedL1()}, "MaskedL2"),
    ],
)
def test_what_was_not_published_is_said(module, row, change, message):
    with pytest.raises(ValueError, match=message):
        module.from_config(replace(load(CONFIGS / f"{row}.py"), **change), "sdpa")
