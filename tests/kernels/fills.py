"""Comparison of mean_fill with its reference, for its sweep and its fuzz tests."""

import os

import torch

from fastmim_kernels.mean_fill import cases, reference


def check_fill(function, case: cases.Case, dtype: torch.dtype) -> None:
    """Checks that visible pixels equal the reference, and hidden pixels the rounded float64 mean."""
    images, hidden, mean, std, _ = args = cases.inputs(case, dtype)
    ours, expected = function(args), reference.mean_fill(*args)
    assert (ours.shape, ours.dtype) == (expected.shape, dtype)
    eps = torch.finfo(dtype).eps
    cut = dtype == torch.bfloat16 and os.environ.get("TRITON_INTERPRET") == "1"  # the interpreter truncates
    where = torch.zeros(images.shape, dtype=torch.bool)
    if hidden is not None:
        height, width = (n // cells for n, cells in zip(case.size, hidden.shape[1:], strict=True))
        where |= hidden.repeat_interleave(height, 1).repeat_interleave(width, 2)[..., None]
    if cut:
        torch.testing.assert_close(ours, expected, rtol=eps, atol=1e-6)
    else:
        assert torch.equal(ours[~where], expected[~where])
    exact = reference.mean_fill(
        images if images.dtype == torch.uint8 else images.double(), hidden, mean.double(), std.double(), torch.float64
    )
    torch.testing.assert_close(ours.double()[where], exact[where], rtol=eps, atol=1e-6)
