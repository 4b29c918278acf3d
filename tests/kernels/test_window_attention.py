"""Tests of window_attention: fuzz, gradients, errors, and Swin's own modules."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, use_reference, window_attention
from fastmim_kernels.window_attention.cases import CASES, flex, functions, inputs
from tests.kernels.windows import any_case

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@given(case=any_case(largest_side=9, largest_dim=70), dtype=st.sampled_from(DTYPES))
def test_fuzz_cpp(check_op, case, dtype):
    check_op("window_attention", "cpp", case, dtype)


@pytest.mark.triton
@given(case=any_case(largest_side=5, largest_dim=40), dtype=st.sampled_from(DTYPES))
def test_fuzz_triton(check_op, case, dtype):
    check_op("window_attention", "triton", case, dtype)


def public(args, **changes):
    """Returns the arguments of the public function from those of the op."""
    names = ("qkv", "codes", "table", "num_heads", "window", "shift", "origin", "scale")
    return dict(zip(names, args, strict=True)) | changes


@pytest.mark.parametrize("case", ["um_shifted", "simmim", "primes", "strided"])
def test_gradients_are_those_of_autograd(case):
    """Compares with the float64 reference, through the public function."""
    args = inputs(CASES[case], torch.float32)
    results = []
    for dtype in (torch.float32, torch.float64):
        qkv, table = (args[i].to(dtype, copy=True).requires_grad_() for i in (0, 2))
        out = window_attention(**public(args, qkv=qkv, table=table))
        (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)).sum().backward()
        results.append((out.detach(), qkv.grad, table.grad))
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=2e-6 * float(exact.abs().max()))


def test_without_kernels():
    args = inputs(CASES["um_shifted"], torch.bfloat16)
    use_reference()
    try:
        out = window_attention(**public(args))
    finally:
        use_reference(False)
    assert torch.equal(out, OPS["window_attention"].reference(*args))


@pytest.mark.parametrize("case", ["um_shifted", "simmim"])
def test_the_official_way_gives_the_same(case):
    """Compares gradients of qkv too. `functions` draws an MLP, so both run on one."""
    qkv, run = functions(CASES[case], torch.float32, "cpu")
    results = []
    for name in ("ours", "official", "sdpa", "reference"):
        qkv.grad = None
        out = run[name](qkv)
        out.square().sum().backward()
        results.append((out, qkv.grad))
    for out, grad in results[1:]:
        torch.testing.assert_close(out, results[0][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(grad, results[0][1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", ["um_shifted", "simmim", "small", "small_window_places", "rows_shifted"])
def test_flex_attention_gives_the_same(case):
    """Checks the FlexAttention arm of the benchmark, which only a GPU measures."""
    qkv, codes, table, *options = inputs(CASES[case], torch.float32)
    with torch.no_grad():
        ours = OPS["window_attention"].overload(qkv, codes, table, *options)
        torch.testing.assert_close(flex(codes, *options)(qkv, table), ours)


def test_large_scores_do_not_overflow():
    args = list(inputs(CASES["um_shifted"], torch.float32))
    args[0] = 100 * args[0]
    exact = OPS["window_attention"].reference(args[0].double(), args[1], args[2].double(), *args[3:])
    out = window_attention(**public(args))
    torch.testing.assert_close(out, exact.float(), rtol=0, atol=1e-3 * float(exact.abs().max()))


def test_nan_stays_in_its_window():
    qkv, *rest = inputs(CASES["um"], torch.float32)
    qkv[0, 3, 2, 0] = float("nan")
    out = window_attention(**public((qkv, *rest)))
    expected = OPS["window_attention"].reference(qkv, *rest)
    assert torch.equal(out.isnan(), expected.isnan()) and out.isnan().any() and not out.isnan().all()


def test_bits_do_not_depend_on_threads_or_runs():
    args = inputs(replace(CASES["um_shifted"], batch=5), torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in [1, 2, 3] * 7:
            torch.set_num_threads(threads)
            results.append(OPS["window_attention"].overload(*args))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(out, results[0]) for out in results)


@pytest.mark.parametrize("case", ["um_shifted", "small_window_places", "no_images"])
def test_opcheck(case):
    qkv, codes, table, *rest = inputs(CASES[case], torch.float32)
    torch.library.opcheck(
        OPS["window_attention"].overload, (qkv.requires_grad_(), codes, table.requires_grad_(), *rest)
    )


def test_nothing_but_the_arguments_is_saved():
    qkv, codes, table, *rest = inputs(CASES["um"], torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.data_ptr()), lambda x: x):
        window_attention(**public((qkv.requires_grad_(), codes, table.requires_grad_(), *rest)))
    assert set(saved) <= {qkv.data_ptr(), codes.data_ptr(), table.data_ptr()}


WRONG = {
    "qkv of 3 dimensions": {"qkv": torch.zeros(2, 24, 48)},
    "qkv of float64": {"qkv": torch.zeros(2, 4, 6, 48, dtype=torch.float64)},
    "heads that do not divide": {"num_heads": 3},
    "no heads": {"num_heads": 0},
    "codes of int64": {"codes": torch.zeros(2, 4, 6, dtype=torch.int64)},
    "codes of another map": {"codes": torch.zeros(2, 6, 4, dtype=torch.int32)},
    "codes of another batch": {"codes": torch.zeros(3, 4, 6, dtype=torch.int32)},
    "table of another head": {"table": torch.zeros(1, 77)},
    "table of bfloat16": {"table": torch.zeros(2, 77, dtype=torch.bfloat16)},
    "window that does not divide": {"window": (3, 3)},
    "window of 0": {"window": (0, 3)},
    "window of one number": {"window": (2,)},
    "shift of a window": {"shift": (2, 0)},
    "shift back": {"shift": (-1, 0)},
    "origin outside": {"origin": 77},
    "table of float64": {"table": torch.zeros(2, 77, dtype=torch.float64)},
    "another device": {"table": torch.zeros(2, 77, device="meta")},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    args = public(inputs(CASES["small"], torch.float32))
    window_attention(**args)
    with pytest.raises(ValueError):
        window_attention(**args | WRONG[wrong])


@pytest.mark.parametrize("far", [-(2**31), 2**31 - 1, 400])
def test_codes_out_of_reach_raise(far):
    args = inputs(CASES["small"], torch.float32)
    args[1][1, 2, 3] = far
    with pytest.raises(RuntimeError, match=r"codes\[1\]"):
        window_attention(**public(args))
    with pytest.raises(RuntimeError):
        OPS["window_attention"].reference(*args)
