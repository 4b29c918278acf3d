"""Tests of focal_frequency and focal_frequency_loss: fuzz, gradients, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, focal_frequency_loss, use_reference
from fastmim_kernels.focal_frequency import focal_frequency
from fastmim_kernels.focal_frequency.cases import CASES, Case, inputs

OP = "focal_frequency"


@st.composite
def any_case(draw, largest: int):
    gamma = draw(st.sampled_from([None, None, 0.0, 1.0, 1.7, 3.0]))
    alpha = draw(st.sampled_from([0.2, 0.5, 1.0, 2.0]))
    size = (draw(st.integers(1, largest)), draw(st.integers(1, largest)))
    return Case(draw(st.integers(0, 6)), size, alpha, gamma, draw(st.booleans()), draw(st.booleans()))


@given(case=any_case(largest=40))
def test_fuzz_cpp(check_op, case):
    check_op(OP, "cpp", case, torch.float32)


@pytest.mark.triton
@given(case=any_case(largest=20))
def test_fuzz_triton(check_op, case):
    check_op(OP, "triton", case, torch.float32)


@pytest.mark.parametrize("size", [1e-15, 1e-6, 1e4, 1e12])
@pytest.mark.parametrize("case", ["frequency_log", "focal"])
def test_magnitudes_of_any_size(case, size):
    args = inputs(CASES[case], torch.float32)
    expected = args[0].double() * size
    ours = (args[0] * size).contiguous()
    totals = focal_frequency(ours, *args[1:])
    exact = OPS[OP].reference(expected, *args[1:])
    for a, b in zip((ours, *totals), (expected, *exact), strict=True):
        if b.abs().max() < 1e30:  # else beyond float32
            torch.testing.assert_close(a.double(), b, rtol=2e-6, atol=2e-6 * b.abs().max().item() + 1e-37)


def full(residual, alpha, gamma, log, peak, batch, crops):
    """Returns the same loss from the whole complex spectrum, differentiated by autograd."""
    b, h, w, c = residual.shape
    x = residual.view(b // batch, batch, crops, h // crops, crops, w // crops, c)
    m = torch.fft.fft2(x, dim=(3, 5), norm="ortho").abs()
    if gamma is not None:
        return (m * (0.5 * alpha * m).tanh() ** gamma).mean()
    s = m.detach() ** alpha
    s = s.log1p() if log else s
    top = {"all": (1, 2, 3, 4, 5, 6), "each": (3, 5)}[peak]
    return (s / s.amax(top, keepdim=True) * m.square()).mean()


@pytest.mark.parametrize("on_reference", [False, True])
@pytest.mark.parametrize("shape", [(6, 12, 8, 3), (2, 6, 2, 1), (34, 4, 10, 2)])
@pytest.mark.parametrize("crops", [1, 2])
@pytest.mark.parametrize(
    ("alpha", "gamma", "log", "peak", "batch"),
    [
        (1.0, None, True, "all", 2),
        (1.0, None, False, "each", 1),
        (2.0, None, False, "each", 1),
        (0.2, 1.0, False, "each", 1),
        (0.2, 0.0, False, "each", 1),
    ],
)
def test_loss_and_gradient(on_reference, shape, crops, alpha, gamma, log, peak, batch):
    residual = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x, y = residual.clone().requires_grad_(), residual.double().requires_grad_()
    use_reference(on_reference)
    try:
        ours = focal_frequency_loss(x, alpha=alpha, gamma=gamma, log=log, peak=peak, batch=batch, crops=crops)
    finally:
        use_reference(False)
    expected = full(y, alpha, gamma, log, peak, batch, crops)
    (3 * ours).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=0, atol=1e-6 * y.grad.abs().max().item())


def test_odd_sizes():
    residual = torch.randn(2, 5, 7, 3)
    x, y = residual.clone().requires_grad_(), residual.double().requires_grad_()
    focal_frequency_loss(x, alpha=0.2, gamma=1.0).backward()
    full(y, 0.2, 1.0, False, "each", 1, 1).backward()
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=0, atol=1e-6 * y.grad.abs().max().item())


def test_second_backward_raises_instead_of_scaling_twice():
    loss = focal_frequency_loss(torch.randn(1, 4, 4, 3, requires_grad=True), alpha=1.0, peak="all")
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_gradient_is_formed_when_none_is_wanted(monkeypatch):
    x = torch.randn(3, 8, 6, 3, requires_grad=True)
    expected = focal_frequency_loss(x, alpha=0.2, gamma=1.0)
    monkeypatch.delattr(torch.fft, "irfft2")
    with torch.no_grad():
        loss = focal_frequency_loss(x, alpha=0.2, gamma=1.0)
    assert not loss.requires_grad and loss == expected == focal_frequency_loss(x.detach(), alpha=0.2, gamma=1.0)


def test_second_derivative_raises():
    x = torch.randn(1, 4, 4, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(focal_frequency_loss(x, alpha=1.0).square(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_bits_do_not_depend_on_threads_or_chance():
    args, residual = inputs(CASES["focal"], torch.float32), torch.randn(5, 224, 224, 3)
    before = torch.get_num_threads()
    try:
        results = []
        for run in range(20):
            torch.set_num_threads(run % 3 + 1)
            spectrum, x = args[0].clone(), residual.clone().requires_grad_()
            loss = focal_frequency_loss(x, alpha=0.2, gamma=1.0)
            loss.backward()
            results.append((*OPS[OP].overload(spectrum, *args[1:]), spectrum, loss, x.grad))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("case", ["frequency", "focal_odd", "no_planes"])
def test_opcheck(case):
    torch.library.opcheck(OPS[OP].overload, inputs(CASES[case], torch.float32))


WRONG = {
    "3 dimensions": {0: torch.zeros(3, 8, 5)},
    "complex": {0: torch.zeros(3, 8, 5, dtype=torch.complex64)},
    "float64": {0: torch.zeros(3, 8, 5, 2, dtype=torch.float64)},
    "with gaps": {0: torch.zeros(3, 8, 5, 4)[..., ::2]},
    "another width": {1: 7},
    "no rows": {0: torch.zeros(3, 0, 5, 2)},
    "alpha of 0": {2: 0.0},
    "gamma below 1": {3: 0.5},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    args = inputs(CASES["frequency"], torch.float32)
    focal_frequency(*args)
    with pytest.raises(ValueError):
        focal_frequency(*(WRONG[wrong].get(i, arg) for i, arg in enumerate(args)))


@pytest.mark.parametrize("wrong", [{"crops": 3}, {"crops": 0}, {"batch": 3}])
def test_residuals_that_do_not_divide_raise(wrong):
    with pytest.raises(ValueError, match="divide"):
        focal_frequency_loss(torch.zeros(2, 8, 8, 3), alpha=1.0, **wrong)


RESIDUALS = {
    "3 dimensions": {"residual": torch.zeros(8, 8, 3)},
    "bfloat16": {"residual": torch.zeros(2, 8, 8, 3, dtype=torch.bfloat16)},
    "unknown peak": {"peak": "one"},
    "alpha of 0": {"alpha": 0.0},
}


@pytest.mark.parametrize("wrong", RESIDUALS)
def test_wrong_arguments_of_the_loss_raise(wrong):
    with pytest.raises(ValueError):
        focal_frequency_loss(**{"residual": torch.zeros(2, 8, 8, 3), "alpha": 1.0} | RESIDUALS[wrong])
