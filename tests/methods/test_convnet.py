"""ResNet and ConvNeXt encoders: their input, their export, and batch norm in every precision."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.published import a2mim as published
from fastmim.config.config_file import load
from fastmim.convert.a2mim_convnet import FORMATS
from fastmim.convert.official_weights import to_official
from fastmim.export.timm_models import timm_encoder, timm_tokens
from fastmim.model import build as parts
from fastmim.model.decoders import LinearHead, TransformerDecoder
from fastmim.model.encoders import ImageInput
from fastmim.model.encoders.batchnorm import BatchNorm
from fastmim.model.encoders.convnet import ConvNeXt, ResNet
from fastmim.model.masking import BlockMasking, RandomMasking, UniformMasking
from fastmim.parts import ImageSpec
from fastmim.tokens import Mask
from tests.methods.tiny import ROOT

GOLDEN = Path(__file__).parents[1] / "golden"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
KINDS = [ResNet, ConvNeXt]


def build(spec, masking=None, size=(64, 128)):
    torch.manual_seed(0)
    masking = masking or (BlockMasking() if spec.reads == "all" else UniformMasking())
    return spec.build(ImageSpec(size, MEAN, STD), masking), masking


def draw(encoder, masking, count=2):
    return masking(0, torch.arange(count), encoder.grid, encoder.patch_size)


def test_mean_fill(golden):
    data = golden("a2mim_loss")
    hidden = data["mask"].bool()
    ids = hidden.flatten(1).byte().argsort(dim=1, stable=True)
    mask = Mask(ids, int((~hidden[0]).sum()), (4, 4))
    assert torch.equal(mask.mask.view(2, 4, 4), hidden)
    filled = ImageInput(ImageSpec((64, 64), (0.0,) * 3, (1.0,) * 3), "mean")(
        data["target"].permute(0, 2, 3, 1), mask, torch.float32
    )
    torch.testing.assert_close(filled, data["masked_input_mean"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "millions"),
    [
        (ResNet("resnet50"), 23.508),
        (ResNet("resnet101"), 42.500),
        (ResNet("resnet152"), 58.144),
        (ResNet("resnet200"), 62.625),
        (ConvNeXt("convnext_small"), 49.455),
        (ConvNeXt("convnext_base"), 87.566),
    ],
)
def test_parameters(spec, millions):
    heads = {"resnet": 6.295, "convnext_small": 2.362, "convnext_base": 3.149}
    with torch.device("meta"):
        encoder = spec.build(ImageSpec((224, 224), MEAN, STD), BlockMasking())
        head = LinearHead().build(encoder)
    assert round(sum(p.numel() for p in encoder.backbone.parameters()) / 1e6, 3) == millions
    assert next(v for k, v in heads.items() if spec.name.startswith(k)) == round(
        sum(p.numel() for p in head.parameters()) / 1e6, 3
    )
    assert encoder.grid == (7, 7) and encoder.patch_size == 32


def test_every_official_name_is_converted_both_ways():
    entries = json.loads((GOLDEN / "state_dict_keys/a2mim_r50.json").read_text())["entries"]
    shapes = {e["key"]: tuple(e["shape"]) for e in entries}
    with torch.device("meta"):
        encoder = ResNet().build(ImageSpec((224, 224), MEAN, STD), BlockMasking())
        ours = nn.ModuleDict({"encoder": encoder, "decoder": LinearHead().build(encoder)}).state_dict()
        theirs = {name: torch.empty(shape) for name, shape in shapes.items()}
        assert [f.recognises(theirs) for f in FORMATS] == [True, False, False, False]
        converted, unmatched = FORMATS[0].to_ours(theirs)
        assert not unmatched and {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in ours.items()}
        back, unmatched = FORMATS[0].to_official(converted)
        assert not unmatched and {k: tuple(v.shape) for k, v in back.items()} == shapes


def test_convnext_names_are_converted_both_ways():
    with torch.device("meta"):
        backbone = published.ConvNeXt(*published.CONVNEXTS["convnext_small"])
        theirs = published.A2MIM(backbone, published.Neck(768, 32), published.A2MIMHead()).state_dict()
        encoder = ConvNeXt().build(ImageSpec((224, 224), MEAN, STD), BlockMasking())
        ours = nn.ModuleDict({"encoder": encoder, "decoder": LinearHead().build(encoder)}).state_dict()
        assert [f.recognises(theirs) for f in FORMATS] == [False, True, False, False]
        converted, unmatched = FORMATS[1].to_ours(theirs)
        assert not unmatched and {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in ours.items()}
        back, unmatched = FORMATS[1].to_official(converted)
        assert not unmatched and {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in theirs.items()}
        baseline = {name.replace("decoder_pred", "decoder"): t for name, t in theirs.items()}
        assert [f.recognises(baseline) for f in FORMATS] == [False, False, False, True]


@pytest.mark.parametrize(("reads", "stride"), [("all", 32), ("visible", 32), ("all", 16), ("all", 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_timms(kind, reads, stride):
    import timm

    spec = kind(**SMALL, reads=reads, output_stride=stride)
    encoder, _ = build(spec)
    encoder.eval()
    description = timm_encoder(spec, (64, 128))
    model = timm.create_model(description["architecture"], num_classes=0, **description["model_args"]).eval()
    model.load_state_dict(encoder.backbone.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 128)
    features = encoder.features(images)
    assert features.shape == (2, 64 * 128 // stride**2, encoder.embed_dim)
    assert torch.equal(features, timm_tokens(spec, model, images))


@pytest.mark.parametrize("kind", KINDS)
def test_output_stride(kind):
    """Patches have the side of the output stride; maps are those of the deepest stage of each stride."""
    spec = kind(**SMALL, output_stride=8)
    encoder, masking = build(spec, RandomMasking(0.5), (32, 64))
    assert encoder.patch_size == 8 and encoder.grid == (4, 8)
    assert encoder.strides == (4, 8) and encoder.widths == (
        encoder.backbone.feature_info[-4]["num_chs"],
        encoder.embed_dim,
    )
    mask, images = draw(encoder, masking), torch.randint(0, 256, (2, 32, 64, 3), dtype=torch.uint8)
    assert encoder(images, mask).shape == (2, 32, encoder.embed_dim)
    maps, stages = encoder.eval().maps(torch.ones(2, 3, 32, 64)), encoder.stages(torch.ones(2, 3, 32, 64), None)
    assert [tuple(x.shape[2:]) for x in maps] == [(8, 16), (4, 8)]
    assert torch.equal(maps[0], stages[0]) and torch.equal(maps[1], stages[3])
    with pytest.raises(ValueError, match="output_stride: expected 32 where visible patches"):
        kind(**SMALL, output_stride=8, reads="visible")


def test_official_code_has_no_output_stride():
    config = load(ROOT / "configs/a2mim/pretrain/resnet50_300ep.py")
    config = replace(config, encoder=replace(config.encoder, output_stride=16))
    with torch.device("meta"), pytest.raises(ValueError, match="output_stride=16: dilated"):
        to_official(FORMATS[0], parts.build(config))
    with pytest.raises(ValueError, match="output_stride=16: officially it is 32"):
        published.from_config(config)


def changed(encoder, masking, where):
    """Returns the tokens, (B, N) bool, that change if the pixels `where`, (B, H, W) bool, change."""
    encoder.eval()
    mask = draw(encoder, masking)
    images = torch.randint(0, 256, (2, 64, 128, 3), dtype=torch.uint8)
    other = torch.where(where(mask)[..., None], 255 - images, images)
    before, after = encoder(images, mask), encoder(other, mask)
    return (before != after).any(dim=-1), mask


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_pixels_leave_no_trace_but_their_mean(kind):
    """Swapping hidden pixels of one image keeps its mean, and so its latent tokens."""
    encoder, masking = build(kind(**SMALL))
    encoder.eval()
    mask = draw(encoder, masking)
    hidden = mask.hidden_map((64, 128))[0]
    images = torch.randint(0, 256, (2, 64, 128, 3), dtype=torch.uint8)
    other = images.clone()
    other[0, hidden] = images[0, hidden].flip(0)
    torch.testing.assert_close(encoder(images, mask), encoder(other, mask), rtol=1e-4, atol=1e-5)
    other[0, ~hidden] = images[0, ~hidden].flip(0)
    assert not torch.allclose(encoder(images, mask), encoder(other, mask), rtol=1e-2, atol=1e-2)


def test_which_baselines_leak():
    """A replacing token hides all, because ConvNeXt's stem never crosses a mask's border; an added token does not."""

    def hidden(mask):
        return mask.hidden_map((64, 128))

    replaced, added = (ConvNeXt(**SMALL, fill="none", token=token, token_layer=0) for token in ("replace", "add"))
    assert not changed(*build(replaced), hidden)[0].any()
    assert changed(*build(added), hidden)[0].any()


@pytest.mark.parametrize("secondary", [0.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_compact_grid_holds_visible_patches_only(kind, secondary):
    encoder, masking = build(kind(**SMALL, reads="visible"), UniformMasking(secondary))
    assert hasattr(encoder, "token") == (secondary > 0)
    unseen, mask = changed(encoder, masking, lambda mask: mask.hidden_map((64, 128)))
    assert unseen.shape == (2, 2) and not unseen.any()
    assert changed(encoder, masking, lambda mask: ~mask.hidden_map((64, 128)))[0].any()
    decoder = TransformerDecoder(dim=32, depth=1, num_heads=4).build(encoder)
    images = torch.randint(0, 256, (2, 64, 128, 3), dtype=torch.uint8)
    assert decoder(encoder(images, mask), mask, 24).shape == (2, 24, 768)


def test_compact_image_is_a_patchwork_of_the_visible_patches():
    """Reading visible patches equals running the network on the smaller image that the patches form."""
    encoder, masking = build(ResNet(**SMALL, reads="visible"), UniformMasking(0.0))
    encoder.eval()
    mask = draw(encoder, masking)
    images = torch.randint(0, 256, (2, 64, 128, 3), dtype=torch.uint8)
    half = torch.zeros(2, 32, 64, 3)
    for b in range(2):
        for k, patch in enumerate(mask.ids_keep[b].tolist()):
            (r, c), (i, j) = divmod(k, 4), divmod(patch, 8)
            half[b, 16 * r :, 16 * c :][:16, :16] = images[b, 16 * i :, 16 * j :][:16, :16].float()
    half = (half / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    expected = encoder.features(half.permute(0, 3, 1, 2))
    torch.testing.assert_close(encoder(images, mask), expected, rtol=1e-4, atol=1e-4)


def test_initialisation():
    encoder, _ = build(ResNet(**SMALL))
    conv = encoder.backbone.layer4[0].conv2.weight
    assert conv.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.1)
    assert not encoder.backbone.layer4[0].bn3.weight.any() and encoder.backbone.layer4[0].bn1.weight.all()
    assert encoder.token.mask_token.std().item() == pytest.approx(0.02, rel=0.5)
    assert torch.all(encoder.token.mask_gamma == 1e-6)
    encoder, _ = build(ConvNeXt(**SMALL))
    assert encoder.backbone.stages[3].blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not encoder.token.mask_token.any() and torch.all(encoder.token.mask_gamma == 1e-6)
    encoder, _ = build(ConvNeXt(reads="visible", **SMALL))
    assert encoder.token.mask_token.std().item() == pytest.approx(0.02, rel=0.7)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_nothing(kind):
    """Checkpointing changes neither running statistics nor the draws of drop path."""
    spec = kind(**SMALL, drop_path=0.5)
    results = []
    for checkpointing in (False, True):
        encoder, masking = build(spec)
        encoder.grad_checkpointing = checkpointing
        images = torch.randint(0, 256, (2, 64, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(2)
        encoder(images, draw(encoder, masking)).square().mean().backward()
        results.append({n: p.grad for n, p in encoder.named_parameters()} | dict(encoder.named_buffers()))
    assert all(torch.equal(a, results[1][name]) for name, a in results[0].items())


def test_batch_norm_is_torchs():
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(4)
    nn.init.normal_(plain.weight)
    ours = BatchNorm(plain, 8)
    for _ in range(3):
        x = torch.randn(2, 4, 3, 3)
        assert torch.equal(plain(x), ours(x))
    plain.eval(), ours.eval()
    assert torch.equal(plain(x), ours(x))
    assert all(torch.equal(a, ours.state_dict()[name]) for name, a in plain.state_dict().items())


def test_batch_norm_is_exact_in_every_memory_format():
    """Statistics are right for images of one colour, where torch's channels-last sums are off by 1e-4."""
    torch.manual_seed(0)
    hidden = torch.rand(2, 1, 112, 112) < 0.6
    x = torch.where(hidden, torch.tensor([0.3, 1.7])[:, None, None], torch.randn(2, 2, 112, 112))
    norm = BatchNorm(nn.BatchNorm2d(2), 8)
    exact = x.double()
    variance, mean = torch.var_mean(exact, dim=(0, 2, 3), correction=0, keepdim=True)
    exact = (exact - mean) / (variance + norm.eps).sqrt()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(norm(x.contiguous(memory_format=memory_format)).double(), exact, rtol=0, atol=5e-6)


def test_batch_norm_statistics_stay_float32():
    norm = BatchNorm(nn.BatchNorm2d(4), 8)
    norm.running_mean += 1 / 3
    exact = norm.running_mean.clone()
    norm.bfloat16()
    assert norm.weight.dtype == torch.bfloat16
    assert norm.running_mean.dtype == torch.float32 and torch.equal(norm.running_mean, exact)
    y = norm(torch.randn(2, 4, 3, 3).bfloat16())
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    assert norm.weight.grad.dtype == torch.bfloat16
    norm.double()
    assert norm.running_mean.dtype == torch.float64


def test_batch_norm_says_what_its_statistics_are_of():
    norm = BatchNorm(nn.BatchNorm2d(4), 2048)
    assert norm.describe(256, 8, "cuda") == "statistics of 2048 images"
    assert norm.describe(2048, 8, "cuda") == "statistics of 2048 images"
    assert "of 256 images, not of 2048 (bn_batch)" in norm.describe(256, 8, "cpu")
    assert "of 512 images, not of 2048" in norm.describe(256, 2, "cuda")


@pytest.mark.parametrize(
    ("spec", "masking", "size", "said"),
    [
        (ResNet("resnet51"), BlockMasking(), (64, 64), "near it: resnet"),
        (ConvNeXt("resnet50"), BlockMasking(), (64, 64), "near it: .*convnext"),
        (ResNet(**SMALL), BlockMasking(), (64, 80), "multiple of 32"),
        (ResNet(**SMALL, reads="visible"), RandomMasking(), (64, 64), "reads=all"),
        (ResNet(**SMALL, reads="visible"), UniformMasking(), (96, 64), "multiple of 64"),
        (ResNet(**SMALL), UniformMasking(0.25), (64, 64), "masking.secondary must be 0"),
    ],
)
def test_what_cannot_work_is_refused(spec, masking, size, said):
    with pytest.raises(ValueError, match=said):
        spec.build(ImageSpec(size, MEAN, STD), masking)


def test_a_stage_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="token_layer: expected at most 3 .*got 4"):
        ResNet(token_layer=4)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "resnet50d", "seresnet50"])
def test_other_timm_names_work(name):
    encoder, masking = build(ResNet(name), size=(64, 64))
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert encoder(images, draw(encoder, masking)).shape == (2, 4, encoder.embed_dim)


@pytest.mark.parametrize("name", ["convnext_atto_ols", "convnextv2_atto"])
def test_other_convnexts_work(name):
    encoder, masking = build(ConvNeXt(name), size=(64, 64))
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert encoder(images, draw(encoder, masking)).shape == (2, 4, encoder.embed_dim)
