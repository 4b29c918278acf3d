"""Tests of window_attention_backward: fuzz, order of the sums, errors."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS
from fastmim_kernels.window_attention_backward import window_attention_backward
from fastmim_kernels.window_attention_backward.cases import CASES, inputs
from tests.kernels.windows import any_case

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@given(case=any_case(largest_side=9, largest_dim=70), dtype=st.sampled_from(DTYPES))
def test_fuzz_cpp(check_op, case, dtype):
    check_op("window_attention_backward", "cpp", case, dtype)


@pytest.mark.triton
@given(case=any_case(largest_side=5, largest_dim=40), dtype=st.sampled_from(DTYPES))
def test_fuzz_triton(check_op, case, dtype):
    check_op("window_attention_backward", "triton", case, dtype)


def test_bits_do_not_depend_on_threads_or_runs():
    args = inputs(replace(CASES["um_shifted"], batch=5), torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in [1, 2, 3] * 7:
            torch.set_num_threads(threads)
            results.append(window_attention_backward(*args))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("case", ["um_shifted", "small_window_places", "no_images"])
def test_opcheck(case):
    torch.library.opcheck(OPS["window_attention_backward"].overload, inputs(CASES[case], torch.float32))


WRONG = {
    "grad of another shape": torch.zeros(2, 4, 6, 15),
    "grad of float64": torch.zeros(2, 4, 6, 16, dtype=torch.float64),
    "another device": torch.zeros(2, 4, 6, 16, device="meta"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_gradients_raise(wrong):
    _, *rest = inputs(CASES["small"], torch.float32)
    with pytest.raises(ValueError):
        window_attention_backward(WRONG[wrong], *rest)
