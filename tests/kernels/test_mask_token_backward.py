"""Tests of mask_token_backward: fuzz, order of the sums, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS
from fastmim_kernels.mask_token_backward import mask_token_backward
from fastmim_kernels.mask_token_backward.cases import CASES, Case, inputs
from tests.kernels.cells import DTYPES, MODES, any_case


@given(case=any_case(largest=5), dtype=st.sampled_from(DTYPES))
def test_fuzz_cpp(check_op, case, dtype):
    check_op("mask_token_backward", "cpp", case, dtype, sums=True)


@pytest.mark.triton
@given(case=any_case(largest=3), dtype=st.sampled_from(DTYPES))
def test_fuzz_triton(check_op, case, dtype):
    check_op("mask_token_backward", "triton", case, dtype, sums=True)


@pytest.mark.parametrize("mode", MODES)
def test_bits_do_not_depend_on_threads_or_runs(mode):
    args = inputs(Case(9, (8, 8), (4, 4), 96, mode), torch.float32)
    before = torch.get_num_threads()
    expected = mask_token_backward(*args)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for _ in range(7):
                assert all(torch.equal(a, b) for a, b in zip(mask_token_backward(*args), expected, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["primes", "float_params", "no_images"])
def test_opcheck(name, mode):
    torch.library.opcheck(OPS["mask_token_backward"].overload, inputs(CASES[f"{name} {mode}"], torch.bfloat16))


RIGHT = {
    "grad": torch.zeros(2, 4, 6, 8),
    "x": torch.zeros(2, 4, 6, 8),
    "hidden": torch.zeros(2, 2, 3, dtype=torch.bool),
    "gamma": torch.zeros(8),
    "add": True,
}
WRONG = {
    "grad of 3 dimensions": {"grad": torch.zeros(2, 24, 8)},
    "grad of float64": {"grad": torch.zeros(2, 4, 6, 8, dtype=torch.float64)},
    "hidden of another batch": {"hidden": torch.zeros(3, 2, 3, dtype=torch.bool)},
    "no x": {"x": None},
    "no gamma": {"gamma": None},
    "x of another shape": {"x": torch.zeros(2, 4, 6, 7)},
    "gamma of another width": {"gamma": torch.zeros(7)},
    "gamma without add": {"add": False},
    "another device": {"x": torch.zeros(2, 4, 6, 8, device="meta")},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    mask_token_backward(**RIGHT)
    with pytest.raises(ValueError):
        mask_token_backward(**RIGHT | WRONG[wrong])
