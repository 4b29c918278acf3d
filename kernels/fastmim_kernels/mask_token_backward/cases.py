"""Named inputs of mask_token_backward, for its tests and its benchmark: those of mask_token."""

import torch

from ..mask_token import cases as forward
from . import mask_token_backward, reference

Case = forward.Case
BENCH_DTYPES, BENCH, CASES = forward.BENCH_DTYPES, forward.BENCH, forward.CASES

VARIANTS = forward.VARIANTS
PER_IMAGE = (0, 2)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """The arguments of `torch.ops.fastmim.mask_token_backward`, with grad of type `dtype`; the same on every device."""
    x, hidden, _, gamma, grad = forward.tensors(case, dtype, device, seed)
    return grad, None if gamma is None else x, hidden, gamma, case.mode != "replace"


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Bytes that cannot be avoided; see `mask_token`."""
    return forward.bytes_moved_backward(case, dtype)


def functions(case: Case, dtype: torch.dtype, device: str):
    """grad, and the functions of it that the benchmark runs."""
    grad, *rest = inputs(case, dtype, device)
    return grad, {
        "ours": lambda grad: mask_token_backward(grad, *rest),
        "reference": lambda grad: reference.mask_token_backward(grad, *rest),
    }
