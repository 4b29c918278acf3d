"""Tests of patch_scatter: fuzz, the adjoint of patch_gather, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, patch_gather
from fastmim_kernels.patch_scatter import patch_scatter, reference
from fastmim_kernels.patch_scatter.cases import CASES, Case, inputs
from tests.kernels.patches import any_case

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
IMAGES = [None, *DTYPES]


@given(case=any_case(Case, IMAGES, largest_patch=20), dtype=st.sampled_from(DTYPES))
def test_fuzz_cpp(check_bits, case, dtype):
    check_bits("patch_scatter", "cpp", case, dtype)


@pytest.mark.triton
@given(case=any_case(Case, IMAGES, largest_patch=8), dtype=st.sampled_from(DTYPES))
def test_fuzz_triton(check_bits, case, dtype):
    check_bits("patch_scatter", "triton", case, dtype)


@pytest.mark.parametrize("case", ["mae_vit_h", "primes", "all", "um_mae", "um_mae_odd", "compact_image"])
def test_gather_gives_back_what_was_scattered(case):
    grad, ids, height, width, p, dtype, *tokens = inputs(CASES[case], torch.float32)
    images = patch_scatter(grad, ids, height, width, p, dtype, *tokens)
    channels = torch.zeros(images.shape[3])
    assert torch.equal(patch_gather(images, ids, p, channels, channels + 1, dtype, *tokens), grad)
    assert images.count_nonzero() == grad.count_nonzero()


def test_bits_do_not_depend_on_threads_or_runs():
    args = inputs(Case(8, (4, 4), 16, 5), torch.float32)
    before = torch.get_num_threads()
    expected = patch_scatter(*args)
    try:
        for threads in [1, 2, 3] * 7:
            torch.set_num_threads(threads)
            assert torch.equal(patch_scatter(*args), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("case", ["mae_vit_b", "to_bf16", "um_mae", "no_patches"])
def test_opcheck(case):
    torch.library.opcheck(OPS["patch_scatter"].overload, inputs(CASES[case], torch.float32))


WRONG = {
    "grad of 2 dimensions": {"grad": torch.zeros(2, 48)},
    "grad of float64": {"grad": torch.zeros(2, 1, 48, dtype=torch.float64)},
    "rows that are no patches": {"grad": torch.zeros(2, 1, 47)},
    "ids of int32": {"ids": torch.zeros(2, 1, dtype=torch.int32)},
    "ids of another number": {"ids": torch.zeros(2, 2, dtype=torch.int64)},
    "patch that does not divide": {"height": 9},
    "patch of 0": {"patch_size": 0},
    "token that does not divide": {"token_size": 3},
    "columns that do not divide": {"columns": 2},
    "grad of other tokens": {"token_size": 2},
    "result of uint8": {"dtype": torch.uint8},
    "another device": {"ids": torch.zeros(2, 1, dtype=torch.int64, device="meta")},
}
RIGHT = {
    "grad": torch.zeros(2, 1, 48),
    "ids": torch.zeros(2, 1, dtype=torch.int64),
    "height": 8,
    "width": 8,
    "patch_size": 4,
    "dtype": torch.float32,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    patch_scatter(**RIGHT)
    with pytest.raises(ValueError):
        patch_scatter(**RIGHT | WRONG[wrong])


@pytest.mark.parametrize("index", [-1, 4, 2**62])
def test_index_out_of_range_raises(index):
    args = RIGHT | {"ids": torch.tensor([[0], [index]])}
    with pytest.raises(RuntimeError, match="ids\\[1, 0\\]"):
        patch_scatter(**args)
    with pytest.raises(RuntimeError):
        reference.patch_scatter(**args, token_size=4, columns=1)
