"""Tests of philox: known answers, fuzz, errors."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, philox, uniform, use_reference
from fastmim_kernels.philox import reference, signed_seed
from fastmim_kernels.philox.cases import CASES, inputs

# Random123's kat_vectors, "philox4x32 10": counter, key, words. philox/cpu_test.cpp has them for the C++ bodies.
ANSWERS = [
    ((0, 0, 0, 0), 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ((0xFFFFFFFF,) * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0_A4093822,
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "seed", "expected"), ANSWERS)
def test_known_answers(counter, seed, expected):
    assert torch.stack(reference.rounds([torch.tensor(word) for word in counter], seed)).tolist() == expected


@pytest.mark.triton
@pytest.mark.parametrize(("counter", "seed", "expected"), ANSWERS)
def test_known_answers_triton(counter, seed, expected):
    import triton
    import triton.language as tl

    from fastmim_kernels.philox.cuda import words

    @triton.jit
    def four(seed, stream, sample_id, block, out, words: tl.constexpr):
        first = tl.zeros((1,), tl.int64)
        tl.store(out + tl.arange(0, 4), words(seed, stream, first + sample_id, (first + block).to(tl.int32)))

    block, low, high, stream = counter
    signed_id, signed_seed = (x - (x >> 63 << 64) for x in (high << 32 | low, seed))
    out = torch.zeros(4, dtype=torch.int64, device="cuda" if torch.cuda.is_available() else "cpu")
    four[(1,)](signed_seed, stream, signed_id, block, out, words=words)
    assert out.tolist() == expected


ANY = {
    "seed": st.integers(0, 2**64 - 1),
    "stream": st.integers(0, 2**32 - 1),
    "ids": st.lists(st.integers(0, 2**63 - 1), max_size=40).map(partial(torch.tensor, dtype=torch.int64)),
    "n": st.integers(0, 70),
}


@given(**ANY)
def test_fuzz_cpp(seed, stream, ids, n):
    assert torch.equal(philox(seed, stream, ids, n), reference.philox(signed_seed(seed), stream, ids, n))


@pytest.mark.triton
@given(**ANY)
def test_fuzz_triton(run_triton, seed, stream, ids, n):
    args = (signed_seed(seed), stream, ids, n)
    assert torch.equal(run_triton("philox", args), reference.philox(*args))


def test_draws_depend_on_nothing_else():
    """Draws do not depend on their number, on other ids, on the memory layout, or on threads."""
    ids = torch.arange(3000)
    draws = philox(1, 2, ids, 37)
    assert torch.equal(philox(1, 2, ids, 6), draws[:, :6])
    assert torch.equal(philox(1, 2, ids[::3], 37), draws[::3])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(philox(1, 2, ids, 37), draws)
    finally:
        torch.set_num_threads(threads)
    assert len({tuple(philox(*key, ids[:1], 4)[0].tolist()) for key in ((1, 2), (1, 3), (2, 2), (2**63 + 1, 2))}) == 4


@pytest.mark.parametrize("on_reference", [False, True])
def test_uniform(on_reference):
    use_reference(on_reference)
    try:
        values = uniform(2**64 - 1, 1, torch.arange(500), 40)
        assert values.dtype == torch.float64 and values.min() >= 0 and values.max() < 1
        assert abs(values.mean() - 0.5) < 5 * (1 / 12 / values.numel()) ** 0.5
        assert torch.equal(values * 2**32, philox(2**64 - 1, 1, torch.arange(500), 40).double())
    finally:
        use_reference(False)


@pytest.mark.parametrize("case", ["crops", "largest_seed_and_stream", "no_ids"])
def test_opcheck(case):
    torch.library.opcheck(OPS["philox"].overload, inputs(CASES[case], torch.int64))


def test_compiles_in_one_graph():
    from torch._dynamo.backends.debugging import aot_eager

    ids = torch.arange(5)
    compiled = torch.compile(uniform, backend=aot_eager, fullgraph=True)
    assert torch.equal(compiled(2**63 + 5, 1, ids, 7), uniform(2**63 + 5, 1, ids, 7))


WRONG = {
    "negative seed": {"seed": -1},
    "seed of 65 bits": {"seed": 2**64},
    "negative stream": {"stream": -1},
    "stream of 33 bits": {"stream": 2**32},
    "ids of 2 dimensions": {"ids": torch.zeros(2, 2, dtype=torch.int64)},
    "ids of int32": {"ids": torch.zeros(2, dtype=torch.int32)},
    "negative count": {"n": -1},
    "more than the counter counts": {"n": 2**34 + 1},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    with pytest.raises(ValueError):
        philox(**{"seed": 0, "stream": 0, "ids": torch.arange(2), "n": 3} | WRONG[wrong])
