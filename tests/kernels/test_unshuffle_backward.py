"""Tests of unshuffle_backward: fuzz, order of the sums, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS
from fastmim_kernels.unshuffle import cases as forward
from fastmim_kernels.unshuffle_backward import unshuffle_backward
from fastmim_kernels.unshuffle_backward.cases import CASES, Case, inputs

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@st.composite
def any_case(draw, most_images: int):
    num_patches = draw(st.integers(1, 40))
    shape = forward.Case(
        draw(st.integers(0, most_images)),
        num_patches,
        num_keep=draw(st.integers(0, num_patches)),
        dim=draw(st.integers(1, 300)),
        num_prefix=draw(st.integers(0, 3)),
        raster=draw(st.booleans()),
        params=draw(st.sampled_from([None, *DTYPES])),
        strided=draw(st.booleans()),
    )
    return Case(shape, with_pos=draw(st.booleans()))


@given(case=any_case(most_images=20), dtype=st.sampled_from(DTYPES))
def test_fuzz_cpp(check_op, case, dtype):
    check_op("unshuffle_backward", "cpp", case, dtype, sums=True)


@pytest.mark.triton
@given(case=any_case(most_images=5), dtype=st.sampled_from(DTYPES))
def test_fuzz_triton(check_op, case, dtype):
    check_op("unshuffle_backward", "triton", case, dtype, sums=True)


def test_bits_do_not_depend_on_threads_or_runs():
    args = inputs(Case(forward.Case(9, 50, 13, 96), with_pos=True), torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in [1, 2, 3] * 7:
            torch.set_num_threads(threads)
            results.append(unshuffle_backward(*args))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("case", ["primes", "nothing_hidden positions", "float_params positions", "no_images"])
def test_opcheck(case):
    torch.library.opcheck(OPS["unshuffle_backward"].overload, inputs(CASES[case], torch.bfloat16))


RIGHT = {
    "grad": torch.zeros(2, 5, 8),
    "ids": torch.arange(4).repeat(2, 1),
    "num_keep": 2,
    "raster": False,
    "dtype": torch.float32,
    "with_pos": True,
}
WRONG = {
    "grad of 2 dimensions": {"grad": torch.zeros(5, 8)},
    "grad of float64": {"grad": torch.zeros(2, 5, 8, dtype=torch.float64)},
    "fewer rows than patches": {"grad": torch.zeros(2, 3, 8)},
    "more visible than there are": {"num_keep": 5},
    "fewer than none": {"num_keep": -1},
    "ids of int32": {"ids": torch.zeros(2, 4, dtype=torch.int32)},
    "result of uint8": {"dtype": torch.uint8},
    "another device": {"ids": torch.zeros(2, 4, dtype=torch.int64, device="meta")},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    unshuffle_backward(**RIGHT)
    with pytest.raises(ValueError):
        unshuffle_backward(**RIGHT | WRONG[wrong])


@pytest.mark.parametrize("index", [-1, 4, 0])
def test_no_permutation_raises(index):
    with pytest.raises(RuntimeError, match="ids\\[1, 3\\]"):
        unshuffle_backward(**RIGHT | {"ids": torch.tensor([[0, 1, 2, 3], [0, 1, 2, index]])})
