"""Tests of composite_residual: fuzz, gradients, errors."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, composite_residual, use_reference
from fastmim_kernels._element_loss import ELEMENT_LOSSES
from fastmim_kernels.composite_residual import reference
from fastmim_kernels.composite_residual.cases import CASES, Case, inputs

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OP = "composite_residual"


@st.composite
def any_case(draw, largest_patch: int):
    grid, average = (draw(st.integers(1, 4)), draw(st.integers(1, 4))), draw(st.integers(1, 4))
    return Case(
        average * draw(st.integers(0, 3)),
        grid,
        draw(st.integers(1, largest_patch)),
        num_keep=draw(st.integers(0, grid[0] * grid[1])),
        channels=draw(st.integers(1, 5)),
        images=draw(st.sampled_from([torch.uint8, *DTYPES])),
        loss=draw(st.sampled_from(ELEMENT_LOSSES)),
        gamma=draw(st.sampled_from([1.0, 1.0, 2.0, 1.3])),
        visible=draw(st.sampled_from(["mixed", "target", "prediction", "mean"])),
        visible_weight=draw(st.sampled_from([0.0, 1e-3, 0.5, 1.0])),
        average=average,
        strided=draw(st.booleans()),
    )


@given(case=any_case(largest_patch=20), dtype=st.sampled_from(DTYPES))
def test_fuzz_cpp(check_op, case, dtype):
    check_op(OP, "cpp", case, dtype, terms=1)
    check_op(f"{OP}_backward", "cpp", case, dtype, terms=1)


@pytest.mark.triton
@given(case=any_case(largest_patch=8), dtype=st.sampled_from(DTYPES))
def test_fuzz_triton(check_op, case, dtype):
    check_op(OP, "triton", case, dtype, terms=1)
    check_op(f"{OP}_backward", "triton", case, dtype, terms=1)


def public(case: Case, args, **changes):
    """Returns the arguments of the public function from those of the op."""
    names = ("pred", "images", "ids", "num_keep", "patch_size", "mean", "std")
    values = dict(zip(names, args, strict=False)) | {"loss": case.loss, "gamma": case.gamma, "average": case.average}
    return values | {"visible": case.visible, "visible_weight": case.visible_weight} | changes


GRADIENTS = ["vit", "resnet50", "resnet101", "l2_groups", "mean", "focal_power_1.5", "primes", "strided"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [*GRADIENTS, "nothing_visible", "nothing_hidden", "no_images"])
def test_gradient_is_that_of_autograd(case, dtype):
    """Compares with the float64 reference, for both results, with a loss scale for float16."""
    args, case = inputs(CASES[case], dtype), CASES[case]
    exact = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
    exact[7] = None if case.visible != "mean" else exact[1].double().mean((1, 2)) / 255
    if case.visible == "mean":
        exact[7] = (exact[7] - exact[5]) / exact[6]
    scale, gradients = 1024.0 if dtype == torch.float16 else 0.25, []
    for function, leaf in (
        (lambda pred: composite_residual(**public(case, args, pred=pred)), args[0]),
        (lambda pred: reference.composite_residual(pred, *exact[1:]), exact[0]),
    ):
        pred = leaf.clone().requires_grad_()
        value, residual = function(pred)
        cotangent = torch.randn(residual.shape, generator=torch.Generator().manual_seed(7)).to(residual.dtype)
        (value * scale + (residual * cotangent).sum()).backward()
        gradients.append(pred.grad)
        assert pred.grad.dtype == pred.dtype
    largest = gradients[1].abs().max() if gradients[1].numel() else 0
    rtol = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=rtol, atol=2e-6 * float(largest))


def test_reference_is_used_on_request():
    case = CASES["mean"]
    args = public(case, inputs(case, torch.float32))
    fast = composite_residual(**args)
    use_reference()
    try:
        slow = composite_residual(**args)
    finally:
        use_reference(False)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_gamma_0_is_l1():
    case = replace(CASES["resnet50"], gamma=0.0)
    args = public(case, inputs(case, torch.float32))
    assert torch.equal(composite_residual(**args)[0], composite_residual(**args | {"loss": "l1"})[0])


def test_images_without_channels():
    pred, images, ids = torch.zeros(2, 6, 0), torch.zeros(2, 12, 8, 0), torch.arange(6).expand(2, -1)
    with pytest.raises(ValueError, match="at least one channel"):
        composite_residual(pred, images, ids, 2, 4, torch.zeros(0), torch.ones(0), loss="l1")


def test_l1_gradient_is_zero_where_equal():
    images = torch.randn(1, 4, 4, 3)
    pred = images.reshape(1, 1, 48).clone()
    pred[0, 0, 0] += 1
    pred.requires_grad_()
    ids, zeros = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(3)
    composite_residual(pred, images, ids, 0, 4, zeros, torch.ones(3), loss="l1")[0].backward()
    assert pred.grad[0, 0, 0] == pytest.approx(1 / 48) and not pred.grad[0, 0, 1:].any()


def test_bits_do_not_depend_on_threads_or_chance():
    case = replace(CASES["resnet50"], batch=12, grid=(7, 7), num_keep=19, average=4)
    args = inputs(case, torch.bfloat16)
    grads = (torch.tensor(2.0), torch.randn(3, 224, 224, 3))
    backward = (*grads, *args[:3], *args[5:7], *args[3:5], *args[8:11], *args[12:])
    before = torch.get_num_threads()
    try:
        results = []
        for run in range(20):
            torch.set_num_threads(run % 3 + 1)
            results.append((*OPS[OP].overload(*args), OPS[f"{OP}_backward"].overload(*backward)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("case", ["vit", "mean", "focal_power_2", "no_images"])
def test_opcheck(case):
    pred, *rest = inputs(CASES[case], torch.float32)
    torch.library.opcheck(OPS[OP].overload, (pred.requires_grad_(), *rest))


WRONG = {
    "pred of 2 dimensions": {"pred": torch.zeros(24, 48)},
    "pred of the wrong width": {"pred": torch.zeros(4, 6, 47)},
    "pred of float64": {"pred": torch.zeros(4, 6, 48, dtype=torch.float64)},
    "images of 3 dimensions": {"images": torch.zeros(12, 8, 3)},
    "images of 2 dimensions and their mean": {"images": torch.zeros(12, 8), "visible": "mean"},
    "ids of int32": {"ids": torch.zeros(4, 6, dtype=torch.int32)},
    "too few ids": {"ids": torch.zeros(4, 5, dtype=torch.int64)},
    "more visible than there are": {"num_keep": 7},
    "patch that does not divide": {"patch_size": 5},
    "mean of the wrong length": {"mean": torch.zeros(4)},
    "another device": {"std": torch.ones(3, device="meta")},
    "groups that do not divide": {"average": 3},
    "groups of nothing": {"average": 0},
    "unknown loss": {"loss": "huber"},
    "unknown composite": {"visible": "noise"},
    "gamma below 1": {"gamma": 0.5},
    "alpha of 0": {"alpha": 0.0},
    "visible_weight above 1": {"visible_weight": 1.5},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    case = CASES["l2_groups"]
    args = public(case, inputs(case, torch.float32))
    composite_residual(**args)
    with pytest.raises(ValueError):
        composite_residual(**args | WRONG[wrong])


def test_ids_that_are_no_permutation_raise():
    case = CASES["l2_groups"]
    args = public(case, inputs(case, torch.float32))
    args["ids"] = args["ids"].index_fill(1, torch.tensor([3]), 6)
    with pytest.raises(RuntimeError, match="is no permutation"):
        composite_residual(**args)
