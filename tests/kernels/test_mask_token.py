"""Tests of mask_token: fuzz, gradients, layouts, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, mask_token, use_reference
from fastmim_kernels.mask_token import reference
from fastmim_kernels.mask_token.cases import CASES, Case, functions, inputs, tensors
from tests.kernels.cells import DTYPES, MODES, any_case


@given(case=any_case(largest=5), dtype=st.sampled_from(DTYPES))
def test_fuzz_cpp(check_op, case, dtype):
    check_op("mask_token", "cpp", case, dtype)


@pytest.mark.triton
@given(case=any_case(largest=3), dtype=st.sampled_from(DTYPES))
def test_fuzz_triton(check_op, case, dtype):
    check_op("mask_token", "triton", case, dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["swin", "primes", "channels_first"])
def test_is_the_official_mixture(name, mode):
    x, ways = functions(CASES[f"{name} {mode}"], torch.float32, "cpu")
    torch.testing.assert_close(ways["ours"](x), ways["official"](x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["swin", "float_params", "strided", "channels_first"])
def test_gradients_against_float64(name, mode, dtype):
    x, hidden, token, gamma, grad = tensors(CASES[f"{name} {mode}"], dtype, "cpu", 0)
    given = [value for value in (x, token, gamma) if value is not None]
    leaves, exact = [v.clone().requires_grad_() for v in given], [v.double().requires_grad_() for v in given]
    mask_token(leaves[0], hidden, *leaves[1:], add=mode != "replace").backward(grad)
    mask_token(exact[0], hidden, *exact[1:], add=mode != "replace").backward(grad.double())
    for ours, expected in zip(leaves, exact, strict=True):
        assert ours.grad.dtype == ours.dtype
        tolerance = {"rtol": torch.finfo(ours.dtype).eps, "atol": 2e-6 * expected.grad.abs().max().item()}
        torch.testing.assert_close(ours.grad.double(), expected.grad, **tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_the_reference_in_float64(mode):
    x, hidden, token, gamma, add = inputs(Case(2, (2, 4), (1, 2), 3, mode), torch.float64)
    leaves = [value.requires_grad_() for value in (x, token, gamma) if value is not None]
    function = lambda x, token, gamma=None: reference.mask_token(x, hidden, token, gamma, add)  # noqa: E731
    assert torch.autograd.gradcheck(function, leaves)


def test_only_what_wants_a_gradient_gets_one():
    x, hidden, token, gamma, _ = inputs(CASES["swin gated"], torch.float32)
    mask_token(x, hidden, token.requires_grad_(), gamma, add=True).sum().backward()
    assert x.grad is None and gamma.grad is None
    assert torch.equal(token.grad, torch.full_like(token, hidden.sum().item() * 16))


@pytest.mark.parametrize("mode", MODES)
def test_use_reference(mode):
    *args, add = inputs(CASES[f"swin {mode}"], torch.float32)
    use_reference()
    try:
        result = mask_token(*args, add=add)
    finally:
        use_reference(False)
    torch.testing.assert_close(result, mask_token(*args, add=add))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["primes", "float_params", "channels_first", "no_images"])
def test_opcheck(name, mode):
    args = inputs(CASES[f"{name} {mode}"], torch.bfloat16)
    for value in (args[0], args[2], args[3]):
        if value is not None:
            value.requires_grad_()
    torch.library.opcheck(OPS["mask_token"].overload, args)


RIGHT = {
    "x": torch.zeros(2, 4, 6, 8),
    "hidden": torch.zeros(2, 2, 3, dtype=torch.bool),
    "token": torch.zeros(8),
    "gamma": torch.zeros(8),
    "add": True,
}
WRONG = {
    "x of 3 dimensions": {"x": torch.zeros(2, 24, 8)},
    "x of int64": {"x": torch.zeros(2, 4, 6, 8, dtype=torch.int64)},
    "hidden of 2 dimensions": {"hidden": torch.zeros(2, 6, dtype=torch.bool)},
    "hidden of uint8": {"hidden": torch.zeros(2, 2, 3, dtype=torch.uint8)},
    "hidden of another batch": {"hidden": torch.zeros(3, 2, 3, dtype=torch.bool)},
    "cells that do not divide": {"hidden": torch.zeros(2, 3, 3, dtype=torch.bool)},
    "more cells than positions": {"hidden": torch.zeros(2, 8, 6, dtype=torch.bool)},
    "token of another width": {"token": torch.zeros(7)},
    "token of int64": {"token": torch.zeros(8, dtype=torch.int64)},
    "gamma of another width": {"gamma": torch.zeros(1)},
    "gamma of float64": {"gamma": torch.zeros(8, dtype=torch.float64)},
    "x of float64 and token of int64": {"x": torch.zeros(2, 4, 6, 8).double(), "token": torch.zeros(8).long()},
    "x of float64 and hidden of uint8": {"x": torch.zeros(2, 4, 6, 8).double(), "hidden": torch.zeros(2, 2, 3).byte()},
    "gamma without add": {"add": False},
    "another device": {"token": torch.zeros(8, device="meta")},
    "hidden on another device": {"hidden": torch.zeros(2, 2, 3, dtype=torch.bool, device="meta")},
    "too many positions": {"x": torch.zeros(2, 1, 1, 8).expand(2, 2**15, 2**15, 8)},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    mask_token(**RIGHT)
    with pytest.raises(ValueError):
        mask_token(**RIGHT | WRONG[wrong])
