"""Inputs of mask_token_backward, for its tests and its benchmark: those of mask_token."""

import torch

from ..mask_token import cases as forward
from ..mask_token.cases import BENCH, BENCH_DTYPES, CASES, Case
from . import mask_token_backward, reference

__all__ = ["BENCH", "BENCH_DTYPES", "CASES"]

VARIANTS = forward.VARIANTS
PER_IMAGE = (0, 2)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.mask_token_backward`, equal on every device.

    dtype: type of `grad`.
    """
    x, hidden, _, gamma, grad = forward.tensors(case, dtype, device, seed)
    return grad, None if gamma is None else x, hidden, gamma, case.mode != "replace"


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided; see `mask_token`."""
    return forward.bytes_moved_backward(case, dtype)


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the incoming gradient, and the functions of that gradient that the benchmark runs."""
    grad, *rest = inputs(case, dtype, device)
    return grad, {
        "ours": lambda grad: mask_token_backward(grad, *rest),
        "reference": lambda grad: reference.mask_token_backward(grad, *rest),
    }
