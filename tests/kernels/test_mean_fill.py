"""Tests of mean_fill: fuzz, constant images, order of the sums, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, mean_fill, require, use_reference
from fastmim_kernels.mean_fill import reference
from fastmim_kernels.mean_fill.cases import CASES, Case, inputs
from tests.kernels.fills import check_fill

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def cpp(args):
    require("cpp")
    return OPS["mean_fill"].overload(*args)


@st.composite
def any_case(draw, largest: int):
    grid = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    return Case(
        draw(st.integers(0, 3)),
        draw(st.sampled_from([grid, grid, None])),
        (grid[0] * draw(st.integers(1, largest)), grid[1] * draw(st.integers(1, largest))),
        channels=draw(st.integers(1, 5)),
        images=draw(st.sampled_from([torch.uint8, *DTYPES])),
        strided=draw(st.booleans()),
    )


@given(case=any_case(largest=20), dtype=st.sampled_from(DTYPES))
def test_fuzz_cpp(case, dtype):
    check_fill(cpp, case, dtype)


@pytest.mark.triton
@given(case=any_case(largest=6), dtype=st.sampled_from(DTYPES))
def test_fuzz_triton(run_triton, case, dtype):
    check_fill(lambda args: run_triton("mean_fill", args), case, dtype)


@pytest.mark.parametrize("value", [0, 255])
def test_a_constant_image_stays_constant(value):
    """Bytes are summed exactly, so that the mean of a constant image is its pixel."""
    images = torch.full((2, 224, 224, 3), value, dtype=torch.uint8)
    hidden = torch.tensor([[[True, False]]]).expand(2, 1, 2)
    result = mean_fill(images, hidden, torch.zeros(3), torch.ones(3), torch.float32)
    assert torch.equal(result, torch.full_like(result, value / 255))


def test_bits_do_not_depend_on_threads_or_runs():
    args = inputs(Case(8, (4, 4), (64, 64), images=torch.float32), torch.float32)
    before = torch.get_num_threads()
    expected = mean_fill(*args)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for _ in range(7):
                assert torch.equal(mean_fill(*args), expected)
    finally:
        torch.set_num_threads(before)


def test_use_reference():
    args = inputs(CASES["a2mim"], torch.float32)
    use_reference()
    try:
        result = mean_fill(*args)
    finally:
        use_reference(False)
    assert torch.equal(result, reference.mean_fill(*args))


@pytest.mark.parametrize("case", ["primes", "bf16_images", "strided_float", "normalise", "no_images"])
def test_opcheck(case):
    torch.library.opcheck(OPS["mean_fill"].overload, inputs(CASES[case], torch.bfloat16))


RIGHT = {
    "images": torch.zeros(2, 8, 12, 3),
    "hidden": torch.zeros(2, 2, 3, dtype=torch.bool),
    "mean": torch.zeros(3),
    "std": torch.ones(3),
    "dtype": torch.float32,
}
WRONG = {
    "images of 3 dimensions": {"images": torch.zeros(8, 12, 3)},
    "images of int32": {"images": torch.zeros(2, 8, 12, 3, dtype=torch.int32)},
    "images of float64": {"images": torch.zeros(2, 8, 12, 3, dtype=torch.float64)},
    "images that want a gradient": {"images": torch.zeros(2, 8, 12, 3, requires_grad=True)},
    "hidden of 2 dimensions": {"hidden": torch.zeros(2, 6, dtype=torch.bool)},
    "hidden of int64": {"hidden": torch.zeros(2, 2, 3, dtype=torch.int64)},
    "hidden of another batch": {"hidden": torch.zeros(3, 2, 3, dtype=torch.bool)},
    "cells that do not divide": {"hidden": torch.zeros(2, 3, 3, dtype=torch.bool)},
    "no cells": {"hidden": torch.zeros(2, 0, 3, dtype=torch.bool)},
    "hidden on another device": {"hidden": torch.zeros(2, 2, 3, dtype=torch.bool, device="meta")},
    "mean of the wrong length": {"mean": torch.zeros(4)},
    "std of float64": {"std": torch.ones(3, dtype=torch.float64)},
    "result of float64 and mean of bfloat16": {"dtype": torch.float64, "mean": torch.zeros(3).bfloat16()},
    "result of float64 and images of int32": {"dtype": torch.float64, "images": torch.zeros(2, 8, 12, 3).int()},
    "result of uint8": {"dtype": torch.uint8},
    "mean on another device": {"mean": torch.zeros(3, device="meta")},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    mean_fill(**RIGHT)
    with pytest.raises(ValueError):
        mean_fill(**RIGHT | WRONG[wrong])
