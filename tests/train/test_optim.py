"""The learning-rate rule, the weight-decay groups, and the stage-0 AdamW against torch's plain one."""

import math

import pytest
import torch
from torch import nn

from fastmim import config
from fastmim.optim import AdamW, learning_rate, parameter_groups


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


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 4))
        self.position = nn.Parameter(torch.ones(1, 3, 4), requires_grad=False)
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.table = nn.ParameterDict({"bias": nn.Parameter(torch.ones(2, 2))})


def test_parameter_groups():
    decayed, plain = parameter_groups(Parts(), 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert decayed["names"] == ["cls_token", "linear.weight"]
    assert plain["names"] == ["linear.bias", "norm.weight", "norm.bias", "table.bias"]
    assert [p.shape for p in plain["params"]] == [(4,), (4,), (4,), (2, 2)]


def test_empty_groups_are_left_out():
    assert [g["names"] for g in parameter_groups(nn.Linear(2, 2, bias=False), 0.1)] == [["weight"]]


def make(dtype=torch.float32, **kwargs):
    torch.manual_seed(0)
    module = Parts().to(dtype)
    return module, AdamW(parameter_groups(module, 0.05), (0.9, 0.95), 1e-8, **kwargs)


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
    plain = torch.optim.AdamW(parameter_groups(other, 0.05), lr=0.01, betas=(0.9, 0.95), eps=1e-8, foreach=False)
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
