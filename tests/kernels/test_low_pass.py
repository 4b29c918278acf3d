"""Tests of low_pass: fuzz, large cases, errors, and the official targets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, low_pass, use_reference
from fastmim_kernels.low_pass import _log_reference, reference
from fastmim_kernels.low_pass.cases import CASES, LARGE_CASES, Case, inputs

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
GOLDEN = Path(__file__).parents[1] / "golden" / "pixmim_lowfreq.npz"


@pytest.mark.parametrize("case", LARGE_CASES)
def test_cpp_large(check_op, case):
    check_op("low_pass", "cpp", LARGE_CASES[case], torch.float32)


@st.composite
def any_case(draw, longest: int, images: int, channels: int):
    batch, patch = draw(st.integers(1, images)), draw(st.integers(1, 9))
    grid = draw(st.integers(1, longest // patch)), draw(st.integers(1, longest // patch))
    return Case(
        batch,
        (grid[0] * patch, grid[1] * patch),
        patch,
        rows=draw(st.none() | st.integers(0, batch * grid[0] * grid[1])),
        radius=draw(st.floats(1, longest, width=32)),
        center=draw(st.sampled_from(["official", "dc"])),
        channels=draw(st.integers(1, channels)),
        images=draw(st.sampled_from([torch.uint8, *DTYPES])),
        strided=draw(st.booleans()),
    )


@given(case=any_case(longest=80, images=3, channels=4))
def test_fuzz_cpp(check_op, case):
    check_op("low_pass", "cpp", case, torch.float32, terms=1)


@pytest.mark.costly("interpreter", "three kernels for each of the examples")
@pytest.mark.triton
@given(case=any_case(longest=40, images=2, channels=2))
def test_fuzz_triton(check_op, case):
    check_op("low_pass", "triton", case, torch.float32, terms=1)


def public(args, **changes):
    """Returns the arguments of the public function from those of the op."""
    images, rows, patch, mean, std, radius, official, _ = args
    center = "official" if official else "dc"
    values = {"images": images, "mean": mean, "std": std, "radius": radius, "center": center, "rows": rows}
    return values | {"patch_size": patch} | changes


@pytest.mark.parametrize("on_reference", [False, True])
@pytest.mark.parametrize(("size", "radius"), [("64", 5), ("64", 40), ("48x64", 10), ("224", 10), ("224", 40)])
def test_official_targets(size, radius, on_reference):
    golden = np.load(GOLDEN)
    images = torch.from_numpy(golden[f"img{size}"]).float().permute(0, 2, 3, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    use_reference(on_reference)
    try:
        target = low_pass(images, mean, std, radius=radius)
    finally:
        use_reference(False)
    expected = torch.from_numpy(golden[f"target{size}_r{radius}"]).permute(0, 2, 3, 1)
    torch.testing.assert_close(target, expected, rtol=0, atol=2e-5)


def test_modulus_where_pixels_are_near_zero():
    """Only the imaginary part is left where the real part vanishes."""
    mean, std = torch.zeros(1), torch.ones(1)
    images = torch.randn(1, 64, 64, 1, generator=torch.Generator().manual_seed(0))
    ours = low_pass(images, mean, std, radius=10)
    exact = reference.low_pass(images.double(), None, 1, mean.double(), std.double(), 10, True, False)
    assert ours.min() >= 0 and exact.min() < 0.01
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-6)


def test_only_wanted_patches_are_written():
    args = inputs(CASES["small"], torch.float32)
    every = low_pass(**public(args, rows=None)).view(2, 4, 8, 4, 8, 3).transpose(2, 3).reshape(32, -1)
    some = low_pass(**public(args)).view(2, 4, 8, 4, 8, 3).transpose(2, 3).reshape(32, -1)
    wanted = torch.zeros(32, dtype=torch.bool).index_fill(0, args[1], True)
    assert torch.equal(some[wanted], every[wanted]) and not some[~wanted].any()


def test_discs_of_many_cycles_are_left_to_torch_fft(caplog):
    _log_reference.cache_clear()
    mean, std = torch.full((1,), 0.4), torch.full((1,), 0.2)
    cases = (((4, 310), 150, False), ((4, 290), 1000, False), ((4, 310), 151, True), ((4, 320), 160, True))
    for size, radius, left in cases:
        args = inputs(Case(1, size, radius=radius, channels=1), torch.float32)
        expected = reference.low_pass(*args) if left else OPS["low_pass"].overload(*args)
        assert torch.equal(low_pass(args[0], mean, std, radius=radius), expected)
        assert left or not caplog.messages
        assert not torch.equal(reference.low_pass(*args), OPS["low_pass"].overload(*args))  # they round differently
    assert len(caplog.messages) == 1 and "150 cycles run on the reference" in caplog.messages[0]


def test_bits_do_not_depend_on_threads_or_the_run():
    args = inputs(replace(CASES["small"], batch=7, rows=80), torch.float32)
    expected = OPS["low_pass"].overload(*args)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert all(torch.equal(OPS["low_pass"].overload(*args), expected) for _ in range(7))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("case", ["small", "all_patches", "no_images"])
def test_opcheck(case):
    torch.library.opcheck(OPS["low_pass"].overload, inputs(CASES[case], torch.float32))


WRONG = {
    "images of 3 dimensions": {"images": torch.zeros(32, 32, 3)},
    "images without pixels": {"images": torch.zeros(2, 0, 32, 3)},
    "images of int32": {"images": torch.zeros(2, 32, 32, 3, dtype=torch.int32)},
    "images that want a gradient": {"images": torch.zeros(2, 32, 32, 3, requires_grad=True)},
    "rows of 2 dimensions": {"rows": torch.zeros(2, 2, dtype=torch.int64)},
    "rows of int32": {"rows": torch.zeros(2, dtype=torch.int32)},
    "patch that does not divide": {"patch_size": 5},
    "mean of the wrong length": {"mean": torch.zeros(4)},
    "std of float64": {"std": torch.ones(3, dtype=torch.float64)},
    "another device": {"mean": torch.zeros(3, device="meta")},
    "radius below 1": {"radius": 0.5},
    "radius that is no number": {"radius": float("nan")},
    "unknown center": {"center": "DC"},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    args = public(inputs(CASES["small"], torch.float32))
    low_pass(**args)
    with pytest.raises(ValueError):
        low_pass(**args | WRONG[wrong])


@pytest.mark.parametrize("row", [-1, 32, 2**62])
def test_row_out_of_range_raises(row):
    args = list(inputs(CASES["small"], torch.float32))
    args[1] = args[1].index_fill(0, torch.tensor([3]), row)
    with pytest.raises(RuntimeError, match="rows\\[3\\]"):
        low_pass(**public(args))
