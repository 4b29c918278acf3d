"""ConvMAE equals the published way, which computes hidden positions too; sizes; reach of hidden pixels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.published import convmae
from fastmim.config.config_file import load
from fastmim.convert import official_weights
from fastmim.convert.restricted_reader import OfficialFile
from fastmim.model.decoders import TransformerDecoder
from fastmim.model.encoders import ConvMAE
from fastmim.model.losses import MaskedL2
from fastmim.model.masking import RandomMasking, UniformMasking
from fastmim.model.mim import MIM
from fastmim.model.objective import Objective
from fastmim.model.targets import NormalizedPatches
from fastmim.parts import ImageSpec
from fastmim.tasks import pretrain
from fastmim.tokens import Mask

CONFIGS = Path(__file__).parents[2] / "configs"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPEC = ConvMAE(embed_dims=(8, 12, 16), depths=(2, 1, 2), num_heads=2)


def official_name(ours):
    part, name = ours.split(".", 1)
    return name if part == "encoder" or name == "mask_token" else f"decoder_{name}"


def build(target=None, size=(96, 96)):
    torch.manual_seed(0)
    encoder = SPEC.build(ImageSpec(size, MEAN, STD), RandomMasking())
    decoder = TransformerDecoder(dim=8, depth=2, num_heads=2).build(encoder)
    objective = Objective(target or NormalizedPatches(), MaskedL2(), 16, ImageSpec(size, MEAN, STD))
    mim = MIM(RandomMasking(), encoder, decoder, objective, seed=0)
    for p in mim.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2)
    return mim


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8)


@pytest.fixture
def mask():
    return RandomMasking()(0, torch.arange(3), (6, 6), 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close(images, mask, dtype):
    encoder = build().encoder
    expected = encoder(images, mask)
    with torch.autocast("cpu", dtype):
        got = encoder(images, mask)
    assert (got - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_official_forward(golden, check_gradients):
    data = golden("forward_convmae_tiny")
    encoder = SPEC.build(ImageSpec((224, 224), MEAN, STD), RandomMasking())
    decoder = TransformerDecoder(dim=16, depth=1, num_heads=2).build(encoder)
    mim = MIM(
        RandomMasking(),
        encoder,
        decoder,
        Objective(NormalizedPatches(), MaskedL2(), 16, ImageSpec((224, 224), MEAN, STD)),
        seed=0,
    )
    mim.load_state_dict({k: data[f"sd/{official_name(k)}"] for k in mim.state_dict()}, strict=True)
    images = data["img"].float().permute(0, 2, 3, 1).contiguous()
    mask = Mask(data["noise"].argsort(dim=1), 49, (14, 14))
    torch.testing.assert_close(encoder(images, mask), data["latent"], rtol=0, atol=1e-4)
    loss = mim.objective(mim.predict(images, mask), images, mask)
    torch.testing.assert_close(loss, data["loss_normpix"][0], rtol=1e-5, atol=0)
    loss.backward()
    check_gradients({official_name(k): p.grad for k, p in mim.named_parameters()}, data)


def test_hidden_pixels_reach_nothing_visible(images, mask):
    encoder = build().encoder
    latent = encoder(images, mask)
    other = torch.where(mask.hidden_map((96, 96))[..., None], torch.randint_like(images, 256), images)
    assert not torch.equal(other, images) and torch.equal(encoder(other, mask), latent)


def test_features_are_those_of_nothing_hidden(images):
    """Features of a rectangle equal those from a mask that hides nothing, in any order of the patches."""
    mim = build(size=(64, 96))
    images = images[:, :64]
    mask = Mask(torch.rand(3, 24).argsort(dim=1), 24, (4, 6))
    features = mim.encoder.features(mim.objective.normalize(images).permute(0, 3, 1, 2))
    assert features.shape == (3, 24, 16)
    expected = features.gather(1, mask.ids[..., None].expand_as(features))
    torch.testing.assert_close(mim.encoder(images, mask), expected, rtol=0, atol=1e-4)


def test_activation_checkpointing_changes_nothing(images, mask):
    mim = build()
    losses = []
    for on in (False, True):
        mim.encoder.grad_checkpointing = on
        loss = mim.objective(mim.predict(images, mask), images, mask)
        losses.append((loss, torch.autograd.grad(loss, mim.encoder.patch_embed1.proj.weight, allow_unused=False)[0]))
    assert torch.equal(losses[0][0], losses[1][0]) and torch.equal(losses[0][1], losses[1][1])


def test_uniform_masks_work_without_replaced_patches(images):
    masking = UniformMasking(secondary=0)
    encoder = SPEC.build(ImageSpec((96, 96), MEAN, STD), masking)
    assert encoder(images, masking(0, torch.arange(3), (6, 6), 16)).shape == (3, 9, 16)
    assert not encoder.has_visible_token, "so masks that replace visible patches are refused, see test_combinations.py"


def test_refused_sizes():
    with pytest.raises(ValueError, match=r"multiple of 16 for ConvMAE; the nearest is \(96, 96\)"):
        SPEC.build(ImageSpec((96, 100), MEAN, STD), RandomMasking())
    with pytest.raises(ValueError, match="encoder.num_heads=5"):
        replace(SPEC, num_heads=5)


def test_published_sizes():
    """Parameter counts in millions, with the fixed position tables, are 84.6 + 4.33 + 26.1 = 115.0."""
    with torch.device("meta"):
        encoder = ConvMAE().build(ImageSpec((224, 224), MEAN, STD), RandomMasking())
        decoder = TransformerDecoder().build(encoder)
    counts = {}
    for name, p in [*encoder.named_parameters(), *(("decoder", p) for p in decoder.parameters())]:
        part = "fusion" if "output_decode" in name else "decoder" if name == "decoder" else "encoder"
        counts[part] = counts.get(part, 0) + p.numel() / 1e6
    assert {part: round(count, 2) for part, count in counts.items()} == {
        "encoder": 84.61,
        "fusion": 4.33,
        "decoder": 26.11,
    }


def test_initialisation():
    """The third patch embedding and linear layers are Xavier-uniform; other convolutions have torch's default."""
    torch.manual_seed(0)
    encoder = ConvMAE(embed_dims=(64, 96, 128), depths=(1, 1, 1), num_heads=2).build(
        ImageSpec((32, 32), MEAN, STD), RandomMasking()
    )

    def bound(out_features, in_features):
        return (6 / (out_features + in_features)) ** 0.5

    state = encoder.state_dict()
    expected = {
        "patch_embed3.proj": bound(128, 96 * 4),
        "patch_embed4": bound(128, 128),
        "blocks3.0.mlp.fc1": bound(512, 128),
        "patch_embed2.proj": (64 * 4) ** -0.5,
        "blocks1.0.conv1": 64**-0.5,
        "blocks2.0.attn": 25**-0.5,
        "stage1_output_decode": (64 * 16) ** -0.5,
    }
    for name, limit in expected.items():
        assert state[f"{name}.weight"].abs().max().item() == pytest.approx(limit, rel=0.02), name
    assert not state["patch_embed4.bias"].any() and state["blocks1.0.conv1.bias"].any()


def test_row_and_its_checkpoints():
    """A whole file converts both ways; the released file lacks the parameters that only pre-training needs."""
    config = load(CONFIGS / "convmae/pretrain/convmae_base_224_1600ep.py")
    with torch.device("meta"):
        mim, published = pretrain.build(config), convmae.from_config(config, "sdpa")
    file = OfficialFile("model", published.state_dict(), {})
    fmt = official_weights.unwrap(file).format
    inferred = official_weights.infer_config(fmt, file.state)
    parts = ("masking", "encoder", "decoder", "target", "loss")
    assert [getattr(inferred, part) for part in parts] == [getattr(config, part) for part in parts]
    state, account = official_weights.to_ours(fmt, file.state, mim)
    assert not account.missing and not account.unmatched and not account.resized
    mim.load_state_dict(state, assign=True)
    back, _ = official_weights.to_official(fmt, mim)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in file.state.items()}

    lacking = [k for k in file.state if k.startswith(("decoder", "mask_token")) or "output_decode" in k]
    released = {k: v for k, v in file.state.items() if k not in lacking} | {"cls_token": torch.zeros(1, 1, 768)}
    assert official_weights.unwrap(OfficialFile("model", released, {})).format is fmt
    _, account = official_weights.to_ours(fmt, released, mim)
    assert sorted(account.missing) == sorted(lacking) and account.unmatched == ["cls_token"]
