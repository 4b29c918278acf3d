"""Tests of patch_loss: fuzz, gradients, errors, and the official numbers."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, patch_loss, use_reference
from fastmim_kernels._element_loss import ELEMENT_LOSSES
from fastmim_kernels.patch_loss import LAYOUTS, reference
from fastmim_kernels.patch_loss.cases import BENCH, CASES, Case, functions, inputs

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
pytestmark = pytest.mark.filterwarnings("ignore:var_mean")  # the reference of an empty batch
GOLDEN = Path(__file__).parents[1] / "golden" / "mae_loss.npz"


@st.composite
def any_case(draw, largest_patch: int):
    batch, grid = draw(st.integers(1, 3)), (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    patch, channels = draw(st.integers(1, largest_patch)), draw(st.integers(1, 5))
    return Case(
        batch,
        grid,
        patch,
        rows=draw(st.integers(0, batch * grid[0] * grid[1])),
        channels=channels,
        images=draw(st.sampled_from([torch.uint8, *DTYPES])),
        norm_pix=patch * patch * channels > 1 and draw(st.booleans()),
        loss=draw(st.sampled_from(["l1", "l2", "focal_l1"])),
        gamma=draw(st.sampled_from([1.0, 1.5, 3.0])),
        layout=draw(st.sampled_from(LAYOUTS)),
        pred=draw(st.sampled_from(["rows", "tokens", "map"])),
        memory=draw(st.sampled_from(["contiguous", "strided", "constant"])),
    )


@given(case=any_case(largest_patch=20), dtype=st.sampled_from(DTYPES))
def test_fuzz_cpp(check_op, case, dtype):
    check_op("patch_loss", "cpp", case, dtype, terms=1)


@pytest.mark.triton
@given(case=any_case(largest_patch=8), dtype=st.sampled_from(DTYPES))
def test_fuzz_triton(check_op, case, dtype):
    check_op("patch_loss", "triton", case, dtype, terms=1)


def public(args, **changes):
    """Returns the arguments of the public function from those of the op."""
    pred, images, rows, patch, mean, std, norm_pix, loss, alpha, gamma, channels_first, _ = args
    values = {"pred": pred, "images": images, "rows": rows, "patch_size": patch, "mean": mean, "std": std}
    numbers = {"norm_pix": norm_pix, "loss": ELEMENT_LOSSES[loss], "alpha": alpha, "gamma": gamma}
    return values | numbers | {"layout": LAYOUTS[channels_first]} | changes


GRADIENTS = [
    "mae_vit_b", "simmim_swin", "norm_l1", "strided", "empty", "focal", "focal_norm_power_2.5", "channels_first", "map",
    "map_strided", "tokens", "tokens_none", "tokens_all_strided",
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", GRADIENTS)
def test_gradient_is_that_of_autograd(case, dtype):
    """Checks the public function, also with an incoming gradient other than 1 (a loss scale for float16)."""
    args = inputs(CASES[case], dtype)
    scale = 1024.0 if dtype == torch.float16 else 0.25
    gradients = []
    for function in (
        lambda pred: patch_loss(**public(args, pred=pred)),
        lambda pred: reference.patch_loss(pred, *args[1:]),
    ):
        pred = args[0].clone().requires_grad_()
        (function(pred) * scale).backward()
        assert pred.grad.dtype == dtype
        gradients.append(pred.grad.float())
    largest = gradients[1].abs().max() if gradients[1].numel() else 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=3 * torch.finfo(dtype).eps, atol=1e-6 * float(largest))


@pytest.mark.parametrize("case", GRADIENTS)
def test_reference_gradient_is_that_of_autograd(case):
    """Checks in float64 the gradient that implementations are compared with."""
    args = [arg.double() if isinstance(arg, torch.Tensor) and arg.is_floating_point() else arg
            for arg in inputs(CASES[case], torch.float32)]  # fmt: skip
    pred = args[0].clone().requires_grad_()
    reference.patch_loss(pred, *args[1:]).backward()
    torch.testing.assert_close(OPS["patch_loss"].reference(*args)[1], pred.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", ["l1", "focal_l1"])
def test_the_official_way_gives_the_same(loss):
    """Compares with convolution, pixel shuffle and a mask of pixels, on the map before the shuffle."""
    case = replace(BENCH["simmim_swin_192 uint8 map"], batch=2, rows=30, loss=loss)
    pred, ways = functions(case, torch.float32, "cpu")
    found = []
    for name in ("ours", "official"):
        loss = ways[name](pred)
        found.append((loss, torch.autograd.grad(loss, pred)[0]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-9)
    assert found[0][1].stride() == pred.stride()


def test_focal_power_0_is_l1():
    args = inputs(CASES["focal"], torch.float32)
    assert patch_loss(**public(args, gamma=0.0)) == patch_loss(**public(args, loss="l1"))


def test_l1_gradient_is_zero_where_equal():
    images = torch.randn(1, 4, 4, 3)
    pred = images.reshape(1, 48).clone()
    pred[0, 0] += 1
    pred.requires_grad_()
    args = (pred, images, torch.zeros(1, dtype=torch.int64), 4, torch.zeros(3), torch.ones(3))
    patch_loss(*args, norm_pix=False, loss="l1").backward()
    assert pred.grad[0, 0] == pytest.approx(1 / 48) and not pred.grad[0, 1:].any()


def test_no_gradient_is_formed_when_none_is_wanted():
    args = inputs(CASES["mae_vit_b"], torch.float32)
    with torch.no_grad():
        loss = patch_loss(**public(args, pred=args[0].clone().requires_grad_()))
    assert not loss.requires_grad
    assert OPS["patch_loss"].overload(*args[:-1], None)[1].numel() == 0


def test_second_backward_raises_instead_of_scaling_twice():
    args = inputs(CASES["mae_vit_b"], torch.float32)
    loss = patch_loss(**public(args, pred=args[0].clone().requires_grad_()))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("on_reference", [False, True])
def test_official_numbers(norm_pix, on_reference):
    golden = np.load(GOLDEN)
    hidden = torch.from_numpy(golden["mask"]).bool()
    pred = torch.from_numpy(golden["pred"])[hidden].requires_grad_()
    images = torch.from_numpy(golden["img"]).permute(0, 2, 3, 1)
    rows = hidden.flatten().nonzero().flatten()
    use_reference(on_reference)
    try:
        loss = patch_loss(pred, images, rows, 16, torch.zeros(3), torch.ones(3), norm_pix=norm_pix, loss="l2")
    finally:
        use_reference(False)
    loss.backward()
    name = "normpix" if norm_pix else "raw"
    expected = torch.from_numpy(golden[f"grad_{name}"])[hidden]
    assert loss.item() == pytest.approx(golden[f"loss_{name}"].item(), rel=1e-5)
    assert (pred.grad - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_constant_patch_with_any_value_is_exact():
    """norm_pix divides rounding errors of a constant patch by 1e-3, so none may remain."""
    images = torch.tensor([0.1, 1 / 3, 2.6399, -7.77]).reshape(4, 1, 1, 1).expand(4, 16, 16, 3)
    pred = torch.zeros(4, 768)
    loss = patch_loss(pred, images, torch.arange(4), 16, torch.zeros(3), torch.ones(3), norm_pix=True, loss="l1")
    assert loss < 1e-9


@pytest.mark.parametrize("changes", [{}, {"loss": "focal_l1", "pred": "map", "layout": "channel_row_column"}])
def test_bits_do_not_depend_on_threads_or_runs(changes):
    args = inputs(replace(CASES["mae_vit_b"], batch=4, rows=600, **changes), torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in [1, 2, 3, *[2] * 17]:
            torch.set_num_threads(threads)
            results.append(OPS["patch_loss"].overload(*args))
    finally:
        torch.set_num_threads(before)
    for loss, grad in results[1:]:
        assert torch.equal(loss, results[0][0]) and torch.equal(grad, results[0][1])


def test_concurrent_calls():
    args = inputs(CASES["mae_vit_b"], torch.float32)
    expected = OPS["patch_loss"].overload(*args)
    results = [None] * 4

    def call(slot):
        results[slot] = OPS["patch_loss"].overload(*args)

    threads = [threading.Thread(target=call, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for loss, grad in results:
        assert torch.equal(loss, expected[0]) and torch.equal(grad, expected[1])


@pytest.mark.parametrize("case", ["mae_vit_b", "simmim_float", "empty", "focal", "map_focal", "map_strided"])
def test_opcheck(case):
    pred, *rest = inputs(CASES[case], torch.float32)
    torch.library.opcheck(OPS["patch_loss"].overload, (pred.requires_grad_(), *rest))


def test_traced_backward_leaves_the_saved_gradient_alone():
    """AOT autograd returns the op's second output, and scales by a factor other than 1."""
    from torch._dynamo.backends.debugging import aot_eager

    args = inputs(CASES["raw_l2_fp16_images"], torch.float32)
    gradients = []
    for function in (patch_loss, torch.compile(patch_loss, backend=aot_eager, fullgraph=True)):
        pred = args[0].clone().requires_grad_()
        (function(**public(args, pred=pred)) * 3).backward()
        gradients.append(pred.grad)
    torch.testing.assert_close(*gradients)


WRONG = {
    "pred of 3 dimensions": {"pred": torch.zeros(1, 4, 48)},
    "pred of the wrong width": {"pred": torch.zeros(6, 47)},
    "pred of float64": {"pred": torch.zeros(6, 48, dtype=torch.float64)},
    "rows of int32": {"rows": torch.zeros(6, dtype=torch.int32)},
    "too few rows": {"rows": torch.zeros(5, dtype=torch.int64)},
    "patch that does not divide": {"patch_size": 3},
    "patch of 0": {"patch_size": 0},
    "images of int32": {"images": torch.zeros(2, 8, 8, 3, dtype=torch.int32)},
    "images of 3 dimensions": {"images": torch.zeros(8, 8, 3)},
    "mean of the wrong length": {"mean": torch.zeros(4)},
    "std of float64": {"std": torch.ones(3, dtype=torch.float64)},
    "another device": {"mean": torch.zeros(3, device="meta")},
    "unknown loss": {"loss": "huber"},
    "gamma of 0.5": {"loss": "focal_l1", "gamma": 0.5},
    "alpha of 0": {"loss": "focal_l1", "alpha": 0.0},
    "unknown layout": {"layout": "channel_column_row"},
    "predictions of some patches of every image": {"pred": torch.zeros(2, 3, 48)},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    args = public(inputs(CASES["raw_l2_fp16_images"], torch.float32))
    patch_loss(**args)
    with pytest.raises(ValueError):
        patch_loss(**args | WRONG[wrong])


def test_norm_pix_of_one_value_raises():
    with pytest.raises(ValueError, match="at least 2 values"):
        patch_loss(**public(inputs(CASES["one_value"], torch.float32), norm_pix=True))


@pytest.mark.parametrize("row", [-1, 8, 2**62])
def test_row_out_of_range_raises(row):
    args = list(inputs(CASES["raw_l2_fp16_images"], torch.float32))
    args[2] = args[2].index_fill(0, torch.tensor([3]), row)
    with pytest.raises(RuntimeError, match="rows\\[3\\]"):
        patch_loss(**public(args))
    with pytest.raises(IndexError):
        reference.patch_loss(*args)


def test_row_twice_raises():
    args = list(inputs(CASES["tokens"], torch.float32))
    args[2] = args[2].index_copy(0, torch.tensor([1]), args[2][:1])
    with pytest.raises(RuntimeError, match="twice"):
        patch_loss(**public(args))


@pytest.mark.triton
def test_triton_large_patch(check_op):
    check_op("patch_loss", "triton", Case(1, (1, 2), 40, 2, channels=3), torch.float32)
