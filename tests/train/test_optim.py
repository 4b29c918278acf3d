"""Tests of the learning-rate rule, the parameter groups, and AdamW of stage 0 against torch's."""

import math
import re

import pytest
import torch
from torch import nn

from fastmim import recipe
from fastmim.config import base as config
from fastmim.config.json_form import from_json, to_json
from fastmim.engine.optim import learning_rate, parameter_groups
from fastmim.engine.stage0 import AdamW

OPTIM = config.Optim(weight_decay=0.05)


def test_learning_rate_of_mae():
    optim, train = config.Optim(), config.Train(epochs=800, global_batch=4096)
    assert learning_rate(optim, train, 0) == 0
    assert learning_rate(optim, train, 20) == pytest.approx(1.2e-3)
    assert learning_rate(optim, train, 40) == pytest.approx(2.4e-3)  # 1.5e-4 * 4096 / 256
    assert learning_rate(optim, train, 420) == pytest.approx(1.2e-3)
    assert learning_rate(optim, train, 800) == pytest.approx(0, abs=1e-12)


def test_learning_rate_with_a_minimum_and_another_reference_batch():
    optim = config.Optim(blr=1e-3, lr_batch=512, min_lr=1e-5, warmup_epochs=0)
    train = config.Train(epochs=10, global_batch=1024)
    assert learning_rate(optim, train, 0) == pytest.approx(2e-3)
    quarter = 1e-5 + (2e-3 - 1e-5) * 0.5 * (1 + math.cos(math.pi / 4))
    assert learning_rate(optim, train, 2.5) == pytest.approx(quarter)
    assert learning_rate(optim, train, 10) == pytest.approx(1e-5)


def test_learning_rate_when_all_is_warm_up():
    optim, train = config.Optim(warmup_epochs=5), config.Train(epochs=5, global_batch=256)
    assert learning_rate(optim, train, 4) == pytest.approx(1.2e-4)
    assert learning_rate(optim, train, 5) == 0


def cosine(high, low, done):
    """Returns the value at fraction `done` of half a cosine from high to low."""
    return low + (high - low) * (1 + math.cos(math.pi * done)) / 2


# SimMIM: base rates for a batch of 512, used with 2048; 10 epochs of warm-up.
SIMMIM = {"lr_batch": 512, "warmup_epochs": 10, "betas": (0.9, 0.999)}
SIMMIM_100 = config.Optim(blr=2e-4, warmup_lr=4e-6, min_lr=4e-5, cosine_from="start", **SIMMIM)
SIMMIM_800 = config.Optim(blr=1e-4, warmup_lr=2e-6, schedule="multistep", decay_epochs=(700,), **SIMMIM)
A2MIM_CNN = config.Optim(blr=3e-4, min_lr=1e-5, **SIMMIM)
CURVES = {
    "SimMIM, 100 epochs": (SIMMIM_100, 100, {
        0: 4e-6,
        5: (4e-6 + 8e-4) / 2,
        9.999: 4e-6 + (8e-4 - 4e-6) * 0.9999,
        10: cosine(8e-4, 4e-5, 0.1),  # the rate drops, onto 0.976 of the cosine
        50: cosine(8e-4, 4e-5, 0.5),
        100: 4e-5,
    }),
    "SimMIM, fine-tuning's drop": (
        config.Optim(blr=1.25e-3, lr_batch=512, warmup_epochs=20, cosine_from="start"), 100,
        {19.999: 5e-3 * 0.99995, 20: cosine(5e-3, 0, 0.2), 100: 0.0},
    ),
    "SimMIM, 800 epochs": (SIMMIM_800, 800, {
        0: 2e-6, 2.5: 2e-6 + (4e-4 - 2e-6) / 4, 10: 4e-4, 699.99: 4e-4, 700: 4e-5, 800: 4e-5,
    }),
    "MMSegmentation's poly of power 1": (
        config.Optim(
            blr=1e-4, lr_batch=2048, schedule="linear", cosine_from="start", warmup_epochs=1.5, warmup_lr=1e-10
        ),
        160, {0: 1e-10, 0.75: (1e-4 + 1e-10) / 2, 1.5: 1e-4 * (1 - 1.5 / 160), 80: 5e-5, 120: 2.5e-5, 160: 0.0},
    ),
    "a line behind the warm-up": (
        config.Optim(blr=1e-4, lr_batch=2048, schedule="linear", warmup_epochs=10, min_lr=2e-5),
        110, {10: 1e-4, 60: 6e-5, 110: 2e-5},
    ),
    "two steps": (
        config.Optim(
            blr=1e-4, lr_batch=2048, warmup_epochs=0, schedule="multistep", decay_epochs=(3, 2), decay_rate=0.5
        ),
        4, {0: 1e-4, 1.9: 1e-4, 2: 5e-5, 3: 2.5e-5, 4: 2.5e-5},
    ),
    "a step within the warm-up": (
        config.Optim(blr=1e-4, lr_batch=2048, warmup_epochs=2, schedule="multistep", decay_epochs=(1,)),
        4, {1: 5e-5, 2: 1e-5, 4: 1e-5},
    ),
    "A2MIM, ResNet and ConvNeXt": (A2MIM_CNN, 300, {
        0: 0.0, 5: 6e-4, 10: 1.2e-3, 155: cosine(1.2e-3, 1e-5, 0.5), 300: 1e-5,
    }),
    "cosine from the start, all warm-up": (
        config.Optim(blr=1e-4, lr_batch=2048, warmup_epochs=5, warmup_lr=1e-6, cosine_from="start"),
        5, {0: 1e-6, 2.5: (1e-6 + 1e-4) / 2, 5: 0.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CURVES)
def test_learning_rate_curves(name):
    optim, epochs, points = CURVES[name]
    train = config.Train(epochs=epochs, global_batch=2048)
    for epoch, expected in points.items():
        assert learning_rate(optim, train, epoch) == pytest.approx(expected, rel=1e-9, abs=1e-15), epoch


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schedule": "multistep"}, "decay_epochs"),
        ({"schedule": "cosin"}, "one of cosine, linear, multistep"),
        ({"cosine_from": "zero"}, "one of warmup, start"),
        ({"decay_epochs": (0,)}, "decay_epochs: expected above 0"),
        ({"warmup_lr": -1.0}, "warmup_lr: expected at least 0"),
        ({"no_decay": ("a" * 1001,)}, "optim.no_decay: expected at most 100 regular .* got 1 of up to 1001"),
        ({"decay": ("a",) * 101}, "optim.decay: expected at most 100 regular expressions"),
        ({"lr_scale": (("a" * 1001, 1.0),)}, "optim.lr_scale: expected at most 100 regular expressions"),
        ({"lr_scale": (("a", -1.0),)}, "factors at least 0, got -1.0 for 'a'"),
        ({"lr_scale": ("a", 1.0)}, "lr_scale: expected"),
    ],
)
def test_bad_settings_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        config.Optim(**fields)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 4))
        self.position = nn.Parameter(torch.ones(1, 3, 4), requires_grad=False)
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.table = nn.ParameterDict({"bias": nn.Parameter(torch.ones(2, 2))})


def test_parameter_groups():
    decayed, plain = parameter_groups(Parts(), OPTIM)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert decayed["names"] == ["cls_token", "linear.weight"]
    assert plain["names"] == ["linear.bias", "norm.weight", "norm.bias", "table.bias"]
    assert [p.shape for p in plain["params"]] == [(4,), (4,), (4,), (2, 2)]


def test_patterns_move_parameters_between_groups():
    patterns = {
        "no_decay": ("cls_token",),
        "decay": ("norm\\.weight", "table"),
        "lr_scale": (("linear", 0.1), ("bias", 2)),
    }
    groups = parameter_groups(Parts(), config.Optim(weight_decay=0.05, **patterns))
    assert {(g["lr_scale"], g["weight_decay"]): g["names"] for g in groups} == {
        (1.0, 0.05): ["norm.weight"],
        (1.0, 0.0): ["cls_token"],
        (0.1, 0.05): ["linear.weight"],
        (2, 0.05): ["table.bias"],
        (2, 0.0): ["linear.bias", "norm.bias"],  # the later pattern counts
    }


@pytest.mark.parametrize("field", ["no_decay", "decay", "lr_scale"])
@pytest.mark.parametrize(("pattern", "near"), [("linear_weight", "linear.weight"), ("position", "cls_token")])
def test_a_pattern_that_matches_nothing_is_refused(field, pattern, near):
    """A frozen parameter is not trained, so a pattern for it alone does nothing."""
    optim = config.Optim(**{field: ((pattern, 0.1),) if field == "lr_scale" else (pattern,)})
    with pytest.raises(
        ValueError, match=f"optim.{field}: '{pattern}' is in no trained parameter's name; nearest: {near}"
    ):
        parameter_groups(Parts(), optim)


@pytest.mark.parametrize("field", ["no_decay", "decay", "lr_scale"])
@pytest.mark.parametrize("pattern", ["a(", "x{99999999999999}", "(" * 100 + "*" + ")" * 99])
def test_what_is_no_regular_expression_is_refused_with_its_setting(field, pattern):
    optim = config.Optim(**{field: ((pattern, 0.1),) if field == "lr_scale" else (pattern,)})
    with pytest.raises(ValueError, match=rf"optim\.{field}: expected regular expressions, got '{re.escape(pattern)}'"):
        parameter_groups(Parts(), optim)


def test_a_stored_config_s_patterns_are_not_compiled(monkeypatch):
    stored = to_json(config.Optim(no_decay=("a(",), lr_scale=(("[", 1.0),)))
    monkeypatch.setattr(re, "compile", None)
    assert from_json(stored, recipe).no_decay == ("a(",)


def test_a_parameter_cannot_be_in_both_lists():
    with pytest.raises(ValueError, match="both match linear.weight"):
        parameter_groups(Parts(), config.Optim(no_decay=("weight",), decay=("linear",)))


def test_empty_groups_are_left_out():
    assert [g["names"] for g in parameter_groups(nn.Linear(2, 2, bias=False), OPTIM)] == [["weight"]]


def make(dtype=torch.float32, **kwargs):
    torch.manual_seed(0)
    module = Parts().to(dtype)
    return module, AdamW(parameter_groups(module, OPTIM), (0.9, 0.95), 1e-8, **kwargs)


def backward(module, step, scale=1.0):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 4, generator=generator).to(module.cls_token.dtype)
    out = module.norm(module.linear(x + module.cls_token[0])).float() @ torch.ones(4, 2) @ module.table["bias"].float()
    out = out + (module.linear(x).float().pow(2).sum() + module.cls_token.float().sum()) / 4
    (out.pow(2).mean() * scale).backward()


def step(module, optimizer, number, **kwargs):
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    module.zero_grad()
    backward(module, number, **kwargs)
    optimizer.step()


@pytest.mark.parametrize("clip", [None, 0.1, 1e6])
def test_equals_plain_adamw(clip):
    module, optimizer = make(clip=clip)
    other = Parts()
    other.load_state_dict(module.state_dict())
    plain = torch.optim.AdamW(parameter_groups(other, OPTIM), lr=0.01, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    for number in range(5):
        step(module, optimizer, number)
        other.zero_grad()
        backward(other, number)
        norm = nn.utils.clip_grad_norm_([p for p in other.parameters() if p.requires_grad], clip or 1e12)
        plain.step()
        torch.testing.assert_close(optimizer.grad_norm, norm, rtol=1e-5, atol=0)
    for p, q in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def snapshot(module, optimizer):
    tensors = [*module.parameters(), *optimizer.masters.values()]
    tensors += [t for m in optimizer.masters.values() for t in optimizer.state[m].values()]
    return [t.detach().clone() for t in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_skips_what_is_not_finite(dtype, bad):
    module, optimizer = make(dtype, clip=1.0)
    step(module, optimizer, 0)
    before = snapshot(module, optimizer)
    step(module, optimizer, 1, scale=bad)
    assert optimizer.found_inf == 1 and not torch.isfinite(optimizer.grad_norm)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(module, optimizer), strict=True))
    step(module, optimizer, 2)
    assert optimizer.found_inf == 0
    assert not any(torch.equal(a, b) for a, b in zip(before, snapshot(module, optimizer), strict=True) if a.ndim == 2)
    assert {float(optimizer.state[m]["step"]) for m in optimizer.masters.values()} == {2.0}


def test_loss_scale_does_not_change_the_update():
    (module, optimizer), (scaled, scaling) = make(clip=0.1), make(clip=0.1, loss_scaling=True)
    for number in range(3):
        step(module, optimizer, number)
        step(scaled, scaling, number, scale=scaling.loss_scale)
        torch.testing.assert_close(scaling.grad_norm, optimizer.grad_norm)
    for p, q in zip(module.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_loss_scale_falls_and_grows():
    module, optimizer = make(loss_scaling=True)
    assert optimizer.loss_scale == 2**16
    step(module, optimizer, 0, scale=torch.inf)
    assert optimizer.loss_scale == 2**15 and optimizer.growth == 0
    optimizer.growth.fill_(1999)
    step(module, optimizer, 1, scale=optimizer.loss_scale)
    assert optimizer.loss_scale == 2**16 and optimizer.growth == 0


def test_masters_keep_what_bf16_cannot():
    module, optimizer = make(torch.bfloat16)
    with torch.no_grad():
        module.linear.weight.fill_(1.0), optimizer.masters["linear.weight"].fill_(1.0)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4  # far below bf16's spacing of 2**-8 around 1
    for number in range(20):
        module.zero_grad()
        backward(module, number)
        assert module.linear.weight.grad.dtype == torch.float32
        optimizer.step()
    moved = (optimizer.masters["linear.weight"] - 1).abs()
    assert 0 < moved.max() <= 21e-4
    assert torch.equal(module.linear.weight, optimizer.masters["linear.weight"].to(torch.bfloat16))
