"""Tests of patch_gather: fuzz, every byte, gradients, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, patch_gather, use_reference
from fastmim_kernels.patch_gather import reference
from fastmim_kernels.patch_gather.cases import CASES, Case, inputs
from tests.kernels.patches import any_case

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
IMAGES = [torch.uint8, *DTYPES]


@given(case=any_case(Case, IMAGES, largest_patch=20), dtype=st.sampled_from(DTYPES))
def test_fuzz_cpp(check_bits, case, dtype):
    check_bits("patch_gather", "cpp", case, dtype)


@pytest.mark.triton
@given(case=any_case(Case, IMAGES, largest_patch=8), dtype=st.sampled_from(DTYPES))
def test_fuzz_triton(check_bits, case, dtype):
    check_bits("patch_gather", "triton", case, dtype)


def every_byte(mean: float, std: float):
    """Returns arguments whose result is all 256 values, in order."""
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    ids = torch.zeros(1, 1, dtype=torch.int64)
    return images, ids, 16, torch.tensor([mean]), torch.tensor([std]), torch.float32, 16, 1


STATISTICS = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225), (0.5, 0.5), (0.0, 1.0), (1 / 3, 1e-3)]


@pytest.mark.parametrize(("mean", "std"), STATISTICS)
def test_every_byte_follows_the_formula(mean, std):
    """Compares with (x / 255 - mean) / std in NumPy, one IEEE float32 operation after the other."""
    expected = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(mean)) / np.float32(std)
    args = every_byte(mean, std)
    for function in (patch_gather, reference.patch_gather):
        assert np.array_equal(function(*args)[0, 0].numpy(), expected)


@pytest.mark.triton
@pytest.mark.parametrize(("mean", "std"), STATISTICS)
def test_every_byte_in_triton(run_triton, mean, std):
    args = every_byte(mean, std)
    assert torch.equal(run_triton("patch_gather", args), reference.patch_gather(*args))


@pytest.mark.parametrize("case", CASES)
def test_values_are_where_the_equation_says(case):
    images, ids, p, mean, std, _, t, columns = inputs(CASES[case], torch.float32)
    images = torch.arange(images.numel(), dtype=torch.float32).reshape(images.shape)
    out = patch_gather(images, ids, p, mean, std, torch.float32, t, columns)
    b, k, y, x, c = torch.meshgrid(*(torch.arange(n) for n in (*ids.shape, p, p, len(mean))), indexing="ij")
    n, across = p // t, images.shape[2] // p
    token = (k // columns * n + y // t) * columns * n + k % columns * n + x // t
    expected = images[b, ids[b, k] // across * p + y, ids[b, k] % across * p + x, c]
    assert torch.equal(out[b, token, (y % t * t + x % t) * len(mean) + c], expected)
    assert out.shape == (len(ids), ids.shape[1] * n * n, t * t * len(mean))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "case",
    [
        "float_images",
        "bf16_images",
        "fp16_images",
        "strided_float",
        "um_mae_float",
        "um_mae_bf16",
        "compact_image_float",
    ],
)
def test_gradient_is_that_of_autograd(case, dtype):
    images, *rest = inputs(CASES[case], dtype)
    gradients = []
    for function in (patch_gather, reference.patch_gather):
        leaf = images.clone().requires_grad_()
        result = function(leaf, *rest)
        result.backward(torch.linspace(-1, 1, result.numel()).reshape(result.shape).to(dtype))
        assert leaf.grad.dtype == images.dtype and leaf.grad.any()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("case", ["strided_float", "compact_image_float"])
def test_gradient_of_the_reference_in_float64(case):
    images, *rest = inputs(CASES[case], torch.float64)
    assert torch.autograd.gradcheck(lambda x: reference.patch_gather(x, *rest), images.double().requires_grad_())


def test_bits_do_not_depend_on_threads():
    args = inputs(Case(8, (4, 4), 16, 15, token=4, columns=5), torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(patch_gather(*args))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_use_reference():
    args = inputs(CASES["mae_vit_b"], torch.float32)
    use_reference()
    try:
        result = patch_gather(*args)
    finally:
        use_reference(False)
    assert torch.equal(result, patch_gather(*args))


@pytest.mark.parametrize("case", ["primes", "bf16_images", "strided_float", "um_mae_float", "no_patches"])
def test_opcheck(case):
    images, *rest = inputs(CASES[case], torch.float32)
    images = images.clone().requires_grad_(images.is_floating_point())
    torch.library.opcheck(OPS["patch_gather"].overload, (images, *rest))


WRONG = {
    "images of 3 dimensions": {"images": torch.zeros(8, 8, 3)},
    "images of int32": {"images": torch.zeros(2, 8, 8, 3, dtype=torch.int32)},
    "images of float64": {"images": torch.zeros(2, 8, 8, 3, dtype=torch.float64)},
    "ids of int32": {"ids": torch.zeros(2, 1, dtype=torch.int32)},
    "ids of 1 dimension": {"ids": torch.zeros(2, dtype=torch.int64)},
    "ids of another batch": {"ids": torch.zeros(3, 1, dtype=torch.int64)},
    "patch that does not divide": {"patch_size": 3},
    "width that does not divide": {"images": torch.zeros(2, 8, 10, 3)},
    "patch of 0": {"patch_size": 0},
    "token that does not divide": {"token_size": 3},
    "token of 0": {"token_size": 0},
    "columns that do not divide": {"columns": 2},
    "columns of 0": {"columns": 0},
    "mean of the wrong length": {"mean": torch.zeros(4)},
    "std of float64": {"std": torch.ones(3, dtype=torch.float64)},
    "result of float64": {"dtype": torch.float64},
    "result of uint8": {"dtype": torch.uint8},
    "another device": {"mean": torch.zeros(3, device="meta")},
}
RIGHT = {
    "images": torch.zeros(2, 8, 8, 3),
    "ids": torch.zeros(2, 1, dtype=torch.int64),
    "patch_size": 4,
    "mean": torch.zeros(3),
    "std": torch.ones(3),
    "dtype": torch.float32,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    patch_gather(**RIGHT)
    with pytest.raises(ValueError):
        patch_gather(**RIGHT | WRONG[wrong])


@pytest.mark.parametrize("index", [-1, 4, 2**62])
def test_index_out_of_range_raises(index):
    args = RIGHT | {"ids": torch.tensor([[0, 1], [3, index]])}
    with pytest.raises(RuntimeError, match="ids\\[1, 1\\]"):
        patch_gather(**args)
    with pytest.raises(IndexError):
        reference.patch_gather(**args, token_size=4, columns=1)
