"""Tests of unshuffle: fuzz, gradients, torch's own way, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS, unshuffle, use_reference
from fastmim_kernels.unshuffle import reference
from fastmim_kernels.unshuffle.cases import CASES, Case, functions, inputs

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@st.composite
def any_case(draw):
    num_patches = draw(st.integers(1, 20))
    return Case(
        draw(st.integers(0, 3)),
        num_patches,
        num_keep=draw(st.integers(0, num_patches)),
        dim=draw(st.integers(1, 300)),
        num_prefix=draw(st.integers(0, 3)),
        raster=draw(st.booleans()),
        params=draw(st.sampled_from([None, torch.float32])),
        strided=draw(st.booleans()),
    )


@given(case=any_case(), dtype=st.sampled_from(DTYPES))
def test_fuzz_cpp(check_bits, case, dtype):
    check_bits("unshuffle", "cpp", case, dtype)


@pytest.mark.triton
@given(case=any_case(), dtype=st.sampled_from(DTYPES))
def test_fuzz_triton(check_bits, case, dtype):
    check_bits("unshuffle", "triton", case, dtype)


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.raster])
def test_raster_is_the_official_unshuffle(case):
    latent, ways = functions(CASES[case], torch.float32, "cpu")
    assert torch.equal(ways["ours"](latent), ways["official"](latent))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "case", ["mae_decoder", "mae_decoder_raster", "float_params", "float_params_raster", "strided_raster"]
)
def test_gradients_against_float64(case, dtype):
    """Checks all three gradients through the public function; sums are rounded once, from float32."""
    *tensors, ids, raster = inputs(CASES[case], dtype)
    leaves = [x.clone().requires_grad_() for x in tensors]
    exact = [x.double().requires_grad_() for x in tensors]
    result = unshuffle(*leaves, ids, raster=raster)
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype)
    result.backward(grad)
    reference.unshuffle(*exact, ids, raster).backward(grad.double())
    for ours, expected in zip(leaves, exact, strict=True):
        assert ours.grad.dtype == ours.dtype
        tolerance = {"rtol": torch.finfo(ours.dtype).eps, "atol": 1e-6 * expected.grad.abs().max().item()}
        torch.testing.assert_close(ours.grad.double(), expected.grad, **tolerance)


@pytest.mark.parametrize("case", ["two_prefix_tokens", "no_prefix"])
def test_gradients_of_the_reference_in_float64(case):
    *tensors, ids, raster = inputs(CASES[case], torch.float32)
    leaves = [x.double().requires_grad_() for x in tensors]
    assert torch.autograd.gradcheck(lambda *x: reference.unshuffle(*x, ids, raster), leaves)


def test_frozen_positions_get_no_gradient():
    latent, token, pos, ids, raster = inputs(CASES["mae_decoder"], torch.float32)
    unshuffle(latent, token.requires_grad_(), pos, ids, raster=raster).sum().backward()
    assert token.grad is not None and pos.grad is None


def test_use_reference():
    *tensors, raster = inputs(CASES["mae_decoder"], torch.float32)
    use_reference()
    try:
        result = unshuffle(*tensors, raster=raster)
    finally:
        use_reference(False)
    assert torch.equal(result, unshuffle(*tensors, raster=raster))


@pytest.mark.parametrize("case", ["primes", "two_prefix_tokens", "float_params", "no_images"])
def test_opcheck(case):
    *tensors, ids, raster = inputs(CASES[case], torch.bfloat16)
    tensors = [x.requires_grad_() for x in tensors]
    torch.library.opcheck(OPS["unshuffle"].overload, (*tensors, ids, raster))


RIGHT = {
    "latent": torch.zeros(2, 3, 8),
    "mask_token": torch.zeros(1, 1, 8),
    "pos_embed": torch.zeros(1, 5, 8),
    "ids": torch.arange(4).repeat(2, 1),
    "raster": True,
}
WRONG = {
    "latent of 2 dimensions": {"latent": torch.zeros(3, 8)},
    "latent of float64": {"latent": torch.zeros(2, 3, 8, dtype=torch.float64)},
    "two types of weights": {"mask_token": torch.zeros(1, 1, 8, dtype=torch.bfloat16)},
    "more tokens than positions": {"latent": torch.zeros(2, 6, 8)},
    "no prefix token": {"latent": torch.zeros(2, 0, 8)},
    "mask_token of another width": {"mask_token": torch.zeros(1, 1, 7)},
    "pos_embed of another width": {"pos_embed": torch.zeros(1, 5, 7)},
    "pos_embed for every image": {"pos_embed": torch.zeros(2, 5, 8)},
    "fewer positions than patches": {"pos_embed": torch.zeros(1, 3, 8)},
    "ids of int32": {"ids": torch.zeros(2, 4, dtype=torch.int32)},
    "ids of another batch": {"ids": torch.arange(4).repeat(3, 1)},
    "another device": {"pos_embed": torch.zeros(1, 5, 8, device="meta")},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    unshuffle(**RIGHT)
    with pytest.raises(ValueError):
        unshuffle(**RIGHT | WRONG[wrong])


@pytest.mark.parametrize("index", [-1, 4, 2**62])
def test_index_out_of_range_raises(index):
    args = RIGHT | {"ids": torch.tensor([[0, 1, 2, 3], [0, 1, index, 3]])}
    with pytest.raises(RuntimeError, match="ids\\[1, 2\\]"):
        unshuffle(**args)
    with pytest.raises(IndexError):
        reference.unshuffle(**args)


def test_repeated_index_raises():
    with pytest.raises(RuntimeError, match="ids\\[1, 3\\] is 0: that row is no permutation"):
        unshuffle(**RIGHT | {"ids": torch.tensor([[0, 1, 2, 3], [0, 1, 2, 0]])})
