"""Tests of uniform_mask: fuzz, distribution, sizes, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, philox, uniform_mask, use_reference
from fastmim_kernels.uniform_mask.cases import CASES, Case, functions, inputs


@st.composite
def any_case(draw, largest: int):
    rows, columns = 2 * draw(st.integers(1, largest)), 2 * draw(st.integers(1, largest))
    kept = draw(st.integers(1, rows * columns // 4))
    return Case(draw(st.integers(0, 5)), rows, columns, kept, draw(st.booleans()), draw(st.integers(0, 2**64 - 1)))


@given(case=any_case(largest=24))
def test_fuzz_cpp(check_op, case):
    check_op("uniform_mask", "cpp", case, torch.int64)


@pytest.mark.triton
@given(case=any_case(largest=7))
def test_fuzz_triton(check_op, case):
    check_op("uniform_mask", "triton", case, torch.int64)


def test_many_patches(check_op):
    check_op("uniform_mask", "cpp", Case(2, 256, 258, 12345), torch.int64)


@pytest.mark.triton
def test_triton_refuses_what_it_cannot_sort():
    from fastmim_kernels.uniform_mask.cuda import launch

    with pytest.raises(ValueError, match="at most 4096 patches, got 4356"):
        launch(0, 3, 6, torch.arange(1), 66, 66, 1, True)


def test_equal_draws_come_in_the_order_of_their_index(check_op):
    """Uses the first sample with two equal draws among the 128 of a pool, before the 64th in order."""
    draws = philox(0, 3, torch.tensor([374987]), 128)[0]
    assert draws.sort().values.diff().eq(0).nonzero().item() < 64
    check_op("uniform_mask", "cpp", Case(1, 16, 16, 48, first_id=374987), torch.int64)


@pytest.mark.parametrize("on_reference", [False, True])
@pytest.mark.parametrize("stratified", [False, True])
def test_law(on_reference, stratified):
    """Word k gives the corner of block k; hidden patches ascend; the secondary mask has its own words."""
    ids = torch.arange(50)
    use_reference(on_reference)
    try:
        order, secondary = uniform_mask(2**63, 3, 6, ids, 6, 10, 11, stratified=stratified)
    finally:
        use_reference(False)
    keep, hidden = order[:, :15], order[:, 15:]
    corner = keep // 10 % 2 * 2 + keep % 10 % 2
    assert torch.equal(keep // 20 * 5 + keep % 10 // 2, torch.arange(15).expand_as(keep))
    drawn = philox(2**63, 3, ids, 32).argsort(1)[:, :15] // 8 if stratified else philox(2**63, 3, ids, 15) // 2**30
    assert torch.equal(corner, drawn)
    assert (hidden.diff() > 0).all() and torch.equal(order.sort(1).values, torch.arange(60).expand_as(order))
    draws = philox(2**63, 6, ids, 15)
    assert torch.equal(secondary, draws > draws.sort(1).values[:, 10:11])


def test_the_official_way_draws_such_masks():
    ids, ways = functions(CASES["um_mae"], torch.int64, "cpu")
    for name in ("ours", "official"):
        order, secondary = ways[name](ids)
        assert torch.equal(order.sort(1).values, torch.arange(256).expand_as(order))
        assert secondary.sum(1).tolist() == [16] * len(ids) and (order[:, 64:].diff() > 0).all()


def test_bits_do_not_depend_on_threads_or_memory():
    ids = torch.arange(600)
    args = (0, 3, 6)
    threads = torch.get_num_threads()
    expected = OPS["uniform_mask"].reference(*args, ids, 16, 16, 48, True)
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            for ours, theirs in zip(uniform_mask(*args, ids, 16, 16, 48, stratified=True), expected, strict=True):
                assert torch.equal(ours, theirs)
            for ours, theirs in zip(uniform_mask(*args, ids[::2], 16, 16, 48, stratified=True), expected, strict=True):
                assert torch.equal(ours, theirs[::2])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("case", ["um_mae", "odd_number_of_blocks_iid", "large_seed", "no_images"])
def test_opcheck(case):
    torch.library.opcheck(OPS["uniform_mask"].overload, inputs(CASES[case], torch.int64))


RIGHT = {
    "seed": 0,
    "stream": 3,
    "secondary_stream": 6,
    "ids": torch.arange(2),
    "rows": 4,
    "columns": 6,
    "kept": 5,
    "stratified": True,
}
WRONG = {
    "seed of 65 bits": {"seed": 2**64},
    "stream of 33 bits": {"stream": 2**32},
    "secondary stream of 33 bits": {"secondary_stream": 2**32},
    "ids of 2 dimensions": {"ids": torch.zeros(2, 2, dtype=torch.int64)},
    "ids of float": {"ids": torch.zeros(2)},
    "odd rows": {"rows": 5},
    "odd columns": {"columns": 5},
    "no rows": {"rows": 0},
    "negative sides": {"rows": -4, "columns": -6},
    "too many patches": {"rows": 2**16, "columns": 2**15},
    "all replaced": {"kept": 0},
    "more kept than visible": {"kept": 7},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    uniform_mask(**RIGHT)
    with pytest.raises(ValueError):
        uniform_mask(**RIGHT | WRONG[wrong])
