"""Tests of random_mask: fuzz, ties, sizes, errors."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, philox, random_mask, use_reference
from fastmim_kernels.random_mask import reference
from fastmim_kernels.random_mask.cases import CASES, Case, inputs

ORDERS = pytest.mark.parametrize("raster", [False, True], ids=["noise", "raster"])


@st.composite
def any_case(draw, largest: int):
    num_patches = draw(st.integers(1, largest))
    num_keep, raster, seed = draw(st.integers(1, num_patches)), draw(st.booleans()), draw(st.integers(0, 2**64 - 1))
    return Case(draw(st.integers(0, 5)), num_patches, num_keep, raster, seed)


@given(case=any_case(largest=700))
def test_fuzz_cpp(check_op, case):
    check_op("random_mask", "cpp", case, torch.int64)


@pytest.mark.triton
@given(case=any_case(largest=60))
def test_fuzz_triton(check_op, case):
    check_op("random_mask", "triton", case, torch.int64)


@ORDERS
@pytest.mark.parametrize("num_patches", [1009, 16384, 65536, 65537])
def test_many_patches(check_op, num_patches, raster):
    check_op("random_mask", "cpp", Case(2, num_patches, num_patches // 4, raster), torch.int64)


# The first sample with two equal draws among 61: numbers 34 and 35 in ascending order. The visible patches end
# between them.
TIED = Case(1, 61, 35, first_id=683871)


def test_two_draws_are_equal():
    draws = philox(0, 3, torch.tensor([683871]), 61)[0]
    assert draws.sort().values.diff().eq(0).nonzero().item() == 34


@ORDERS
def test_of_equal_draws_the_smaller_index_is_visible(check_op, raster):
    check_op("random_mask", "cpp", replace(TIED, raster=raster), torch.int64)


@pytest.mark.triton
@ORDERS
def test_of_equal_draws_the_smaller_index_is_visible_triton(check_op, raster):
    check_op("random_mask", "triton", replace(TIED, raster=raster), torch.int64)


@pytest.mark.triton
def test_triton_refuses_what_it_cannot_sort():
    from fastmim_kernels.random_mask.cuda import launch

    with pytest.raises(ValueError, match="at most 4096 patches, got 4097"):
        launch(0, 3, torch.arange(1), 4097, 1, False)


@pytest.mark.parametrize("on_reference", [False, True])
def test_law(on_reference):
    """The visible patches are those with the smallest draws, in either order."""
    ids = torch.arange(100)
    use_reference(on_reference)
    try:
        noise = random_mask(2**63, 3, ids, 196, 49)
        raster = random_mask(2**63, 3, ids, 196, 49, raster=True)
        draws = philox(2**63, 3, ids, 196)
    finally:
        use_reference(False)
    assert torch.equal(draws.gather(1, noise), draws.sort(dim=1).values)
    assert torch.equal(raster[:, :49], noise[:, :49].sort(dim=1).values)
    assert torch.equal(raster[:, 49:], noise[:, 49:].sort(dim=1).values)


@ORDERS
def test_bits_do_not_depend_on_threads_or_memory(raster):
    ids = torch.arange(600)
    expected = reference.random_mask(0, 3, ids, 196, 49, raster)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(random_mask(0, 3, ids, 196, 49, raster=raster), expected)
            assert torch.equal(random_mask(0, 3, ids[::2], 196, 49, raster=raster), expected[::2])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("case", ["vit_b", "vit_b_raster", "large_seed", "no_images"])
def test_opcheck(case):
    torch.library.opcheck(OPS["random_mask"].overload, inputs(CASES[case], torch.int64))


def test_compiles_in_one_graph():
    from torch._dynamo.backends.debugging import aot_eager

    ids = torch.arange(5)
    compiled = torch.compile(random_mask, backend=aot_eager, fullgraph=True)
    assert torch.equal(compiled(2**63 + 5, 3, ids, 16, 4), random_mask(2**63 + 5, 3, ids, 16, 4))


WRONG = {
    "seed of 65 bits": {"seed": 2**64},
    "stream of 33 bits": {"stream": 2**32},
    "ids of 2 dimensions": {"ids": torch.zeros(2, 2, dtype=torch.int64)},
    "ids of float": {"ids": torch.zeros(2)},
    "no patches": {"num_patches": 0, "num_keep": 0},
    "none visible": {"num_keep": 0},
    "more visible than there are": {"num_keep": 17},
    "too many patches": {"num_patches": 2**31},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    with pytest.raises(ValueError):
        random_mask(**{"seed": 0, "stream": 3, "ids": torch.arange(2), "num_patches": 16, "num_keep": 4} | WRONG[wrong])
