"""Tests of composite_residual_backward: opcheck and errors.

test_composite_residual.py has its fuzz test.
"""

import pytest
import torch

from fastmim_kernels import OPS
from fastmim_kernels.composite_residual_backward import composite_residual_backward
from fastmim_kernels.composite_residual_backward.cases import CASES, inputs

OP = "composite_residual_backward"


@pytest.mark.parametrize("case", ["vit", "focal_power_2", "no_images"])
def test_opcheck(case):
    torch.library.opcheck(OPS[OP].overload, inputs(CASES[case], torch.bfloat16))


WRONG = {
    "loss gradient of 1 dimension": {0: torch.ones(1)},
    "loss gradient of float64": {0: torch.ones((), dtype=torch.float64)},
    "residuals of all images": {1: torch.zeros(4, 12, 8, 3)},
    "residuals of bfloat16": {1: torch.zeros(2, 12, 8, 3, dtype=torch.bfloat16)},
    "another device": {1: torch.zeros(2, 12, 8, 3, device="meta")},
    "pred of the wrong width": {2: torch.zeros(4, 6, 47)},
    "unknown loss": {9: 3},
    "groups that do not divide": {13: 3},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise(wrong):
    args = inputs(CASES["l2_groups"], torch.float32)
    composite_residual_backward(*args)
    with pytest.raises(ValueError):
        composite_residual_backward(*(WRONG[wrong].get(i, arg) for i, arg in enumerate(args)))
