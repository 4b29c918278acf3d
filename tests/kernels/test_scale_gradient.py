"""Tests of scale_gradient: fuzz, every bit pattern, the free factor of 1, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmim_kernels import OPS
from fastmim_kernels.scale_gradient import scale_gradient
from fastmim_kernels.scale_gradient.cases import CASES, Case, inputs

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


FACTORS = st.sampled_from([0.0, 1.0, -1.0]) | st.floats(-1000, 1000, width=32)
ANY = {
    "case": st.builds(Case, st.lists(st.integers(0, 40), max_size=3).map(tuple), FACTORS),
    "dtype": st.sampled_from(DTYPES),
}


@given(**ANY)
def test_fuzz_cpp(check_op, case, dtype):
    check_op("scale_gradient", "cpp", case, dtype)


@pytest.mark.triton
@given(**ANY)
def test_fuzz_triton(check_op, case, dtype):
    check_op("scale_gradient", "triton", case, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_conversions_are_exact_for_every_bit_pattern(dtype):
    """Multiplies all 65,536 values by 2 and -0.3, with subnormals, infinities and NaN."""
    x = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype)
    for factor in (torch.tensor(2.0), torch.tensor(-0.3)):
        ours, expected = x.clone(), (x.float() * factor).to(dtype)
        scale_gradient(ours, factor)
        assert torch.equal(ours.isnan(), expected.isnan())
        number = ~expected.isnan()
        assert torch.equal(ours.view(torch.int16)[number], expected.view(torch.int16)[number])


def test_counts_as_a_change_even_when_free():
    x = torch.ones(4)
    scale_gradient(x, torch.tensor(1.0))
    assert x._version == 1 and x.eq(1).all()


def test_many_rounds(check_op):
    check_op("scale_gradient", "cpp", Case((3, 40000), 0.7), torch.bfloat16)


def test_opcheck():
    torch.library.opcheck(OPS["scale_gradient"].overload, inputs(CASES["half"], torch.float32))


@pytest.mark.parametrize(
    ("x", "factor"),
    [
        (torch.ones(4, dtype=torch.float64), torch.tensor(1.0)),
        (torch.ones(4, 4).t()[1:], torch.tensor(1.0)),
        (torch.ones(4), torch.ones(2)),
        (torch.ones(4), torch.tensor(1.0, dtype=torch.float64)),
        (torch.ones(4), torch.tensor(1.0, device="meta")),
    ],
)
def test_wrong_arguments_raise(x, factor):
    with pytest.raises(ValueError):
        scale_gradient(x, factor)
