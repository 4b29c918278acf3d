"""A2MIM: our losses equal the official code's, our convolutional networks the published way."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.published import a2mim as published
from fastmim.config.config_file import load
from fastmim.convert.a2mim_convnet import FORMATS
from fastmim.engine.optim import parameter_groups
from fastmim.model.decoders import LinearHead
from fastmim.model.encoders.convnet import ConvNeXt, ResNet
from fastmim.model.losses import ComplexFocalL1, FocalFrequency, MaskedFocalL1, MaskedL1, MaskedL2, WithFourier
from fastmim.model.masking import BlockMasking
from fastmim.model.mim import MIM
from fastmim.model.objective import Objective, focal_frequency_options
from fastmim.model.targets import LowPass, Pixels
from fastmim.parts import ImageSpec
from fastmim.tasks.pretrain import build
from fastmim.tokens import Mask, patchify, take
from fastmim_kernels import focal_frequency_loss, use_reference

GOLDEN = Path(__file__).parents[1] / "golden"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def settings(name):
    with np.load(GOLDEN / f"{name}.npz") as data:
        return json.loads(str(data["settings_json"][0]))


HEADS = settings("a2mim_loss")
# Options of the official head that none of its configs sets and that our losses do not have.
OTHERS = {"l1_fftl1_reweight", "l1_unmask01_focal"}
FREQUENCY = settings("ffl")
FREQUENCY["a2mim"].pop("default_batchmatrix_false")  # the official code raises there


def channels_last(x):
    return x.permute(0, 2, 3, 1)


def check(loss, pred, data, key):
    """Checks a loss and its gradient; `pred` is the (N, C, H, W) leaf."""
    loss.backward()
    torch.testing.assert_close(loss.detach(), data[f"loss/{key}"][0], rtol=1e-5, atol=0)
    expected = data[f"grad/{key}"]
    torch.testing.assert_close(pred.grad, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def our_loss(name):
    """Returns our loss for the options of an official head."""
    given = HEADS[name]
    kind = given["loss"]["mode"]
    spatial = {"l1_loss": MaskedL1(), "mse_loss": MaskedL2(), "focal_l1_loss": MaskedFocalL1()}[kind]
    fourier = FocalFrequency()
    if not given["fft_focal"]:
        fourier = ComplexFocalL1(gamma=1.0 if kind == "focal_l1_loss" else 0.0)
    visible, visible_weight = given["fft_unmask_replace"], given["fft_unmask_weight"]
    return WithFourier(spatial, fourier, given["fft_weight"], visible, visible_weight)


@pytest.mark.parametrize("name", sorted(HEADS.keys() - OTHERS))
def test_loss_and_its_gradient(golden, name):
    data = golden("a2mim_loss")
    pred = data["pred"].clone().requires_grad_()
    hidden = data["mask"].bool().repeat_interleave(16, 1).repeat_interleave(16, 2)[..., None]
    loss = our_loss(name)
    check(loss(channels_last(pred), channels_last(data["target"]), hidden), pred, data, name)
    if not loss.weight:  # then the spatial part alone, on hidden pixels, is the same loss
        rows = [channels_last(x)[hidden[..., 0]] for x in (data["pred"], data["target"])]
        torch.testing.assert_close(loss.spatial(*rows), data[f"loss/{name}"][0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", sorted(HEADS.keys() - OTHERS))
def test_fused_loss_and_its_gradient(golden, name):
    """The fused loss of patches in the order of a mask equals the official one."""
    data = golden("a2mim_loss")
    pred = data["pred"].clone().requires_grad_()
    hidden = data["mask"].flatten(1)
    mask = Mask(hidden.argsort(stable=True, dim=1), int((hidden == 0)[0].sum()), (4, 4))
    objective = Objective(Pixels(), our_loss(name), 16, ImageSpec((64, 64), MEAN, STD))
    assert objective.op == "composite_residual"
    rows = take(patchify(channels_last(pred), 16), mask.ids)
    check(objective(rows, channels_last(data["target"]).contiguous(), mask), pred, data, name)


FORMS = [(family, name, "") for family in FREQUENCY for name in FREQUENCY[family]]
FORMS += [("ffl", name, "_degenerate") for name in ("default", "log", "batch")]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("family", "name", "degenerate"), FORMS)
def test_focal_frequency(golden, family, name, degenerate, fused):
    data, given = golden("ffl"), FREQUENCY[family][name]
    pred = data[f"pred{degenerate}"].clone().requires_grad_()
    loss = FocalFrequency(
        alpha=given.get("alpha", 1.0),
        reduce="batch_mean" if given.get("ave_spectrum") else "per_sample",
        log=given.get("log_matrix", False),
        peak="all" if given.get("batch_matrix") else "each",
        crops=given.get("patch_factor", 1),
    )
    residual = channels_last(pred - data["target"])
    if fused:
        average, options = focal_frequency_options(loss, len(pred))
        value = focal_frequency_loss(residual.unflatten(0, (-1, average)).mean(1), **options)
    else:
        value = loss.of_residual(residual)
    value = given.get("loss_weight", 1.0) * value
    part = {key.removeprefix(f"{family}/"): v for key, v in data.items() if key.startswith(family)}
    check(value, pred, part, name + degenerate)


def test_odd_widths_count_every_column_once():
    torch.manual_seed(0)
    d = torch.randn(2, 5, 7, 3)
    full = torch.fft.fft2(d.double(), dim=(1, 2), norm="ortho").abs()
    expected = (full * torch.tanh(0.1 * full)).mean()
    torch.testing.assert_close(ComplexFocalL1().of_residual(d).double(), expected, rtol=1e-5, atol=0)


def test_statistics_batch():
    """The loss of several statistics batches is their mean; another size gives another loss, and is noted."""
    torch.manual_seed(0)
    d = torch.randn(4, 8, 8, 3)
    loss = FocalFrequency(batch=2)
    torch.testing.assert_close(loss.of_residual(d), (loss.of_residual(d[:2]) + loss.of_residual(d[2:])) / 2)
    assert not torch.isclose(FocalFrequency(batch=4).of_residual(d), loss.of_residual(d))
    assert loss.note(4) is None
    assert "not of 256 (FocalFrequency.batch)" in WithFourier().note(64)
    assert WithFourier(fourier=FocalFrequency(reduce="per_sample", peak="each")).note(64) is None
    assert WithFourier(fourier=ComplexFocalL1()).note(64) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", [Pixels(), LowPass(radius=10, norm_pix=False)], ids=lambda t: type(t).__name__)
@pytest.mark.parametrize(
    "loss",
    [
        WithFourier(fourier=FocalFrequency(batch=3)),
        WithFourier(MaskedFocalL1(), FocalFrequency(batch=6, crops=2), 0.5, visible_weight=1e-3),
        WithFourier(MaskedFocalL1(alpha=2.0, gamma=2.0), FocalFrequency(batch=5, log=False, alpha=2.0), 0.5, "mean"),
        WithFourier(MaskedL2(), FocalFrequency(batch=2, reduce="per_sample"), 0.5, "prediction"),
        WithFourier(MaskedL2(), FocalFrequency(reduce="per_sample", log=False, peak="each"), 0.5, "target", 0.1),
        WithFourier(MaskedFocalL1(gamma=0.0), ComplexFocalL1(alpha=1.0), 0.1, visible_weight=1e-3),
        WithFourier(weight=0.0),
    ],
)
def test_kernels_change_nothing(loss, target, dtype):
    """`train.kernels`: the fused path and the reference give the same loss and gradient."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 32, 48, 3), dtype=torch.uint8, generator=generator)
    mask = Mask(torch.rand(6, 6, generator=generator).argsort(1), 2, (2, 3))
    objective = Objective(target, loss, 16, ImageSpec((64, 64), MEAN, STD))
    results = []
    for reference in (False, True):
        use_reference(reference)
        try:
            pred = torch.randn(6, 6, 768, generator=generator.manual_seed(1)).to(dtype).requires_grad_()
            value = objective(pred, images, mask)
            value.backward()
        finally:
            use_reference(False)
        results.append((value.detach(), pred.grad))
    (value, grad), (expected, expected_grad) = results
    assert grad.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    atol = (1e-5 if dtype == torch.float32 else 1e-2) * expected_grad.abs().max().item()
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=atol)


def test_the_start_up_line_names_the_path():
    said = Objective(Pixels(), WithFourier(), 16, ImageSpec((64, 64), MEAN, STD)).describe("cpu", 256)
    assert said == "Pixels + WithFourier: fused composite_residual (cpp)"


def test_the_start_up_line_names_the_path_of_references():
    use_reference()
    try:
        composite = Objective(Pixels(), WithFourier(), 16, ImageSpec((64, 64), MEAN, STD)).describe("cpu", 256)
        patches = Objective(Pixels(), MaskedFocalL1(), 16, ImageSpec((64, 64), MEAN, STD)).describe("cpu", 256)
    finally:
        use_reference(False)
    assert composite == "Pixels + WithFourier: target built in full, then compared (kernels = reference)"
    assert patches == "Pixels + MaskedFocalL1: reference of patch_loss"


@pytest.mark.parametrize("loss", [MaskedFocalL1(), MaskedFocalL1(2.0, 2.5), MaskedFocalL1(gamma=0.0)])
def test_fused_focal_l1_alone(loss):
    """`patch_loss` gives the same as a target that is built in full."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 32, 48, 3), dtype=torch.uint8, generator=generator)
    mask = Mask(torch.rand(3, 6, generator=generator).argsort(1), 2, (2, 3))
    objective = Objective(Pixels(), loss, 16, ImageSpec((64, 64), MEAN, STD))
    assert objective.op == "patch_loss"
    pred = torch.randn(3, 4, 768, generator=generator).requires_grad_()
    value, expected = objective(pred, images, mask), objective.compare(pred, objective.targets(images), mask)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    grads = [torch.autograd.grad(x, pred)[0] for x in (value, expected)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-5 * grads[1].abs().max().item())


@pytest.mark.parametrize("fourier", [FocalFrequency(), FocalFrequency(log=False), ComplexFocalL1()])
@pytest.mark.parametrize("visible", ["mixed", "target", "prediction", "mean"])
def test_finite_where_nothing_differs(fourier, visible):
    pred = torch.zeros(2, 8, 8, 3, requires_grad=True)
    hidden = torch.zeros(2, 8, 8, 1, dtype=torch.bool)
    hidden[:, :4] = True
    loss = WithFourier(MaskedFocalL1(), fourier, 0.5, visible)(pred, torch.zeros(2, 8, 8, 3), hidden)
    loss.backward()
    assert loss == 0 and torch.equal(pred.grad, torch.zeros_like(pred))


@pytest.mark.parametrize(
    "build",
    [
        lambda: MaskedFocalL1(gamma=0.5),
        lambda: ComplexFocalL1(alpha=0.0),
        lambda: FocalFrequency(batch=0),
        lambda: WithFourier(weight=-1.0),
        lambda: WithFourier(visible_weight=2.0),
    ],
)
def test_values_out_of_range_are_refused(build):
    with pytest.raises(ValueError, match="expected"):
        build()


FOURIER = WithFourier(MaskedFocalL1(), FocalFrequency(), 0.5, visible_weight=1e-3)


def networks(loss, **fields):
    """Yields (our module, the published model) for a small ResNet and a small ConvNeXt."""
    masking, depths = BlockMasking(), (1, 1, 1, 1)
    for kind, dims in ((ResNet, (8, 16, 32, 64)), (ConvNeXt, (8, 16, 24, 32))):
        spec = kind(depths=depths, dims=dims, **fields)
        place = {"mask_layer": spec.token_layer, "token": spec.token}
        if kind is ResNet:
            backbone, dim = published.ResNet(depths, base_channels=8, **place), 4 * dims[-1]
        else:
            backbone, dim = published.ConvNeXt(depths, dims, **place), dims[-1]
        theirs = published.A2MIM(backbone, published.Neck(dim, 32, spec.fill), published.head_of(loss), spec.fill)
        encoder = spec.build(ImageSpec((96, 128), MEAN, STD), masking)
        decoder = LinearHead(init="trunc_normal").build(encoder)
        yield (
            MIM(masking, encoder, decoder, Objective(Pixels(), loss, 32, ImageSpec((96, 128), MEAN, STD)), seed=0),
            theirs,
        )


def official(ours, state):
    """Returns our tensors under official names; A2MIM's formats come before those of its SimMIM baselines."""
    network = 0 if "encoder.backbone.conv1.weight" in ours.state_dict() else 1
    state, unmatched = FORMATS[network + (0 if ours.encoder.input.fill == "mean" else 2)].to_official(state)
    assert not unmatched
    return state


@pytest.mark.parametrize(
    ("loss", "fields"),
    [
        (FOURIER, {}),
        (WithFourier(MaskedFocalL1(), ComplexFocalL1(), 0.1, visible_weight=1e-3), {}),
        (MaskedFocalL1(), {}),
        (MaskedL1(), {"token": "replace", "token_layer": 0, "fill": "none"}),
        (MaskedL1(), {"token": "add", "token_layer": 0, "fill": "none"}),
        (WithFourier(), {"token": "add", "token_layer": 2}),
    ],
)
def test_ours_equals_the_published_way(loss, fields):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 96, 128, 3), dtype=torch.uint8)
    for ours, theirs in networks(loss, **fields):
        for p in ours.parameters():
            torch.nn.init.normal_(p, std=0.1 if p.ndim < 2 else 0.05)
        theirs.load_state_dict(official(ours, ours.state_dict()), strict=True)
        ours.double(), theirs.double()
        pixels = (images.double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        mask = ours.mask(torch.arange(3))
        assert mask.ids_hidden.shape[1] == 8
        pred = ours.predict(pixels, mask)
        value = ours.objective(pred.float(), pixels.float(), mask)
        expected, _, _ = theirs(pixels.permute(0, 3, 1, 2), *published.inputs(mask))
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
        value.backward()
        expected.backward()
        gradients = official(ours, {name: p.grad for name, p in ours.named_parameters()})
        largest = max(p.grad.abs().max().item() for p in theirs.parameters())
        for name, p in theirs.named_parameters():
            scale = max(p.grad.abs().max().item(), 1e-3 * largest)
            torch.testing.assert_close(gradients[name], p.grad, rtol=0, atol=1e-4 * scale, msg=name)
        statistics = official(ours, {k: b for k, b in ours.encoder.backbone.named_buffers(prefix="encoder.backbone")})
        assert all(torch.allclose(b, statistics[name]) for name, b in theirs.named_buffers())


CONFIGS = Path(__file__).parents[2] / "configs/a2mim/pretrain"
NORM, NONE, SLOW = r"(bn|ln|gn)(\d+)?.(weight|bias)", {"weight_decay": 0.0}, {"weight_decay": 0.0, "lr_scale": 0.1}
BASIC = {NORM: NONE, "bias": NONE}
# Regular expressions of the official configs: a later match overrides an earlier one.
OFFICIAL_OPTIONS = {
    "resnet50_100ep": BASIC | {"mask_token": SLOW, "mask_gamma": SLOW},
    "resnet50_300ep": BASIC | {"mask_token": SLOW},
    "convnext_small_300ep": BASIC | {"gamma": NONE, "mask_token": SLOW, "mask_gamma": SLOW},
    "simmim_resnet50_300ep": BASIC | {"mask_token": NONE},
    "simmim_convnext_small_300ep": BASIC | {"gamma": NONE, "mask_token": NONE},
}


@pytest.mark.parametrize("name", OFFICIAL_OPTIONS)
def test_every_parameter_decays_and_learns_as_officially(name):
    config = load(CONFIGS / f"{name}.py")
    with torch.device("meta"):
        ours, theirs = build(config), published.from_config(config)
        groups = parameter_groups(ours, config.optim)
        given = {
            official_name: {"weight_decay": group["weight_decay"], "lr_scale": group["lr_scale"]}
            for group in groups
            for official_name in official(ours, dict(zip(group["names"], group["params"], strict=True)))
        }
    expected = {}
    for parameter, _ in theirs.named_parameters():
        expected[parameter] = {"weight_decay": 0.05, "lr_scale": 1.0}
        for pattern, options in OFFICIAL_OPTIONS[name].items():
            if re.search(pattern, parameter):
                expected[parameter] |= options
    assert given == expected


@pytest.mark.parametrize(
    "name",
    [
        "resnet101_300ep",
        "resnet200_300ep",
        "convnext_base_300ep",
        "simmim_resnet50_300ep",
        "simmim_convnext_small_300ep",
    ],
)
def test_configs_are_official_models(name):
    """Each model built the published way takes the weights of ours."""
    config = load(CONFIGS / f"{name}.py")
    with torch.device("meta"):
        ours, theirs = build(config), published.from_config(config)
    names = {k: v.shape for k, v in official(ours, ours.state_dict()).items()}
    assert names == {k: v.shape for k, v in theirs.state_dict().items()}
    assert config.optim.blr * config.train.global_batch / config.optim.lr_batch == pytest.approx(
        8e-4 if name.startswith("simmim") else 1.2e-3
    )
