"""The published way of A2MIM on convolutional networks: equal to the official code's outputs."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.published.a2mim import (
    A2MIM,
    CONVNEXTS,
    RESNETS,
    A2MIMHead,
    ConvNeXt,
    FocalFrequencyLoss,
    MaskToken,
    ResNet,
    from_config,
    head_of,
)
from fastmim.model.losses import ComplexFocalL1, FocalFrequency, MaskedFocalL1, MaskedL1, WithFourier

GOLDEN = Path(__file__).parents[1] / "golden"


def settings(name):
    with np.load(GOLDEN / f"{name}.npz") as data:
        return json.loads(str(data["settings_json"][0]))


HEADS = settings("a2mim_loss")
FREQUENCY = [
    (family, name)
    for family, names in settings("ffl").items()
    for name in [*names, *(["default_degenerate", "log_degenerate", "batch_degenerate"] if family == "ffl" else [])]
    if name != "default_batchmatrix_false"  # the official code raises there
]


def head(name):
    given = dict(HEADS[name])
    loss = given.pop("loss")
    given.pop("encoder_in_channels")
    return A2MIMHead(loss["mode"], loss.get("alpha", 0.2), loss.get("gamma", 1.0), **given)


def check(loss, pred, data, key):
    loss.backward()
    torch.testing.assert_close(loss.detach(), data[f"loss/{key}"][0], rtol=1e-5, atol=0)
    expected = data[f"grad/{key}"]
    torch.testing.assert_close(pred.grad, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("name", HEADS)
def test_head(golden, name):
    data = golden("a2mim_loss")
    pred = data["pred"].clone().requires_grad_()
    check(head(name)(data["target"], pred, data["mask"]), pred, data, name)


@pytest.mark.parametrize(("family", "name"), [*FREQUENCY, ("ffl", "predefined_matrix")])
def test_focal_frequency(golden, family, name):
    data = golden("ffl")
    pred = data["pred_degenerate" if name.endswith("_degenerate") else "pred"].clone().requires_grad_()
    loss = FocalFrequencyLoss(**settings("ffl")[family].get(name.removesuffix("_degenerate"), {}))
    matrix = data["ffl/matrix"] if name == "predefined_matrix" else None
    part = {key.removeprefix(f"{family}/"): value for key, value in data.items() if key.startswith(family)}
    check(loss(pred, data["target"], matrix), pred, part, name)


def test_mean_fill(golden):
    data = golden("a2mim_loss")
    model = A2MIM(torch.nn.Identity(), torch.nn.Identity(), A2MIMHead())
    filled = model.masked_input(data["target"], data["mask"].long())
    torch.testing.assert_close(filled, data["masked_input_mean"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet50", 23.508), ("resnet101", 42.500), ("resnet152", 58.144), ("resnet200", 62.625)]
    + [("convnext_small", 49.455), ("convnext_base", 87.566)],
)
def test_parameters_of_the_backbones(name, millions):
    """Parameter counts are those of the networks without classifier, plus the token and its gamma."""
    with torch.device("meta"):
        backbone = ResNet(RESNETS[name]) if name in RESNETS else ConvNeXt(*CONVNEXTS[name])
    own = sum(p.numel() for k, p in backbone.named_parameters() if not k.startswith("mask_"))
    assert round(own / 1e6, 3) == millions


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("token", ["replace", "add", "gated"])
def test_where_the_token_joins(monkeypatch, layer, token):
    """At step 0 the token is zero: "add" changes nothing, "gated" nearly removes what is hidden, nothing else moves."""
    mix, calls = MaskToken.forward_mask, []

    def recorded(backbone, x, mask):
        y = mix(backbone, x, mask)
        calls.append((x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)))
        return y

    monkeypatch.setattr(MaskToken, "forward_mask", recorded)
    torch.manual_seed(0)
    images, mask = torch.randn(2, 3, 64, 64), torch.tensor([[[1, 0], [0, 1]], [[0, 1], [1, 1]]])
    for backbone, shape in (
        (ResNet((1, 1, 1, 1), layer, token), [(64, 16), (256, 16), (512, 8), (1024, 4)]),
        (ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32), layer, token), [(8, 16), (16, 8), (24, 4), (32, 2)]),
    ):
        backbone.eval()(images, mask)
        before, after = calls.pop()
        dim, side = shape[layer]
        assert after.shape == (2, side, side, dim)
        hidden = mask.repeat_interleave(side // 2, 1).repeat_interleave(side // 2, 2).bool()
        assert torch.equal(after[~hidden], before[~hidden])
        expected = {"replace": 0.0, "add": 1.0, "gated": 1e-6}[token] * before[hidden]
        torch.testing.assert_close(after[hidden], expected)


def test_heads_of_our_losses():
    fourier = WithFourier(MaskedFocalL1(), FocalFrequency(), 0.5, visible_weight=1e-3)
    for ours, official in (
        (fourier, "config_r50"),
        (WithFourier(MaskedFocalL1(), ComplexFocalL1(), 0.1, visible_weight=1e-3), "config_r101"),
        (WithFourier(), "config_vit"),
        (MaskedFocalL1(), "config_convnext_fft0"),
        (MaskedL1(), "l1_fft0"),
    ):
        given, expected = vars(head_of(ours)), vars(head(official))
        skipped = {"_modules"} | ({"fft_focal", "fft_unmask_replace"} if not expected["fft_weight"] else set())
        assert {k: v for k, v in given.items() if k not in skipped} == {
            k: v for k, v in expected.items() if k not in skipped
        }


def test_other_configs_are_refused():
    encoder = SimpleNamespace(name="vit_base_patch16_224", reads="all")
    with pytest.raises(ValueError, match="resnet50"):
        from_config(SimpleNamespace(encoder=encoder, target=None, decoder=None))
    with pytest.raises(ValueError, match="batch_mean"):
        head_of(WithFourier(fourier=FocalFrequency(reduce="per_sample")))
    with pytest.raises(ValueError, match="loss of pixels for spectra"):
        head_of(WithFourier(MaskedL1(), ComplexFocalL1()))
