"""Tests of block_mask: fuzz, distribution, sizes, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, block_mask, random_mask, use_reference
from fastmim_kernels.block_mask.cases import CASES, Case, inputs


@st.composite
def any_case(draw, largest: int):
    rows, columns, side = draw(st.integers(1, largest)), draw(st.integers(1, largest)), draw(st.integers(1, 6))
    return Case(draw(st.integers(0, 5)), rows, columns, side, draw(st.integers(0, 2**64 - 1)))


@given(case=any_case(largest=50))
def test_fuzz_cpp(check_op, case):
    check_op("block_mask", "cpp", case, torch.int64)


@pytest.mark.triton
@given(case=any_case(largest=13))
def test_fuzz_triton(check_op, case):
    check_op("block_mask", "triton", case, torch.int64)


@pytest.mark.triton
def test_triton_refuses_what_it_cannot_sort():
    from fastmim_kernels.block_mask.cuda import launch

    with pytest.raises(ValueError, match="at most 2048 blocks, got 2116"):
        launch(0, 3, torch.arange(1), 92, 92, 2)


@pytest.mark.parametrize("on_reference", [False, True])
def test_law(on_reference):
    """Blocks come in the order in which random_mask draws them, each column by column."""
    ids = torch.arange(50)
    use_reference(on_reference)
    try:
        patches = block_mask(2**63, 3, ids, 6, 9, 3).view(50, 6, 3, 3)
        blocks = random_mask(2**63, 3, ids, 6, 1)
    finally:
        use_reference(False)
    corner = blocks // 3 * 27 + blocks % 3 * 3
    columns, rows = torch.arange(3)[:, None], torch.arange(3)[None]
    assert torch.equal(patches, corner[..., None, None] + columns + 9 * rows)


def test_bits_do_not_depend_on_threads_or_memory():
    ids = torch.arange(600)
    expected = OPS["block_mask"].reference(0, 3, ids, 15, 14, 2)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(block_mask(0, 3, ids, 15, 14, 2), expected)
            assert torch.equal(block_mask(0, 3, ids[::2], 15, 14, 2), expected[::2])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("case", ["simmim_vit", "over_both_edges", "large_seed", "no_images"])
def test_opcheck(case):
    torch.library.opcheck(OPS["block_mask"].overload, inputs(CASES[case], torch.int64))


RIGHT = {"seed": 0, "stream": 3, "ids": torch.arange(2), "rows": 4, "columns": 6, "side": 2}
WRONG = {
    "seed of 65 bits": {"seed": 2**64},
    "stream of 33 bits": {"stream": 2**32},
    "ids of 2 dimensions": {"ids": torch.zeros(2, 2, dtype=torch.int64)},
    "ids of float": {"ids": torch.zeros(2)},
    "no rows": {"rows": 0},
    "negative sides": {"rows": -4, "columns": -6},
    "too many patches": {"rows": 2**16, "columns": 2**15},
    "no side": {"side": 0},
    "too large a side": {"side": 2**31},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    block_mask(**RIGHT)
    with pytest.raises(ValueError):
        block_mask(**RIGHT | WRONG[wrong])
