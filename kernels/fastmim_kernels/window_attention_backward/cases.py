"""Inputs of window_attention_backward, for its tests and its benchmark: those of window_attention."""

import torch

from ..window_attention import cases as forward
from ..window_attention.cases import BENCH, BENCH_DTYPES, CASES, Case
from . import reference, window_attention_backward

__all__ = ["BENCH", "BENCH_DTYPES", "CASES"]

VARIANTS = forward.VARIANTS | {
    f"{label} queries": (case, dtype) for label, (case, dtype) in forward.VARIANTS.items() if case.grid[0] > 8
}
PER_IMAGE = (0, 1, 2)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.window_attention_backward`, equal on every device.

    dtype: type of `grad` and `qkv`.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    gap = 1 + case.strided
    grad = torch.randn(case.batch, *case.grid, gap * case.num_heads * case.dim, generator=generator)
    return grad.to(device, dtype)[..., ::gap], *forward.inputs(case, dtype, device, seed)


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided: `qkv` and `grad` read, the gradient of `qkv` written."""
    return forward.bytes_moved(case, dtype) * 7 // 11


def flops(case: Case) -> int:
    """Counts five matrix products."""
    return forward.flops(case) * 5 // 7


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the incoming gradient, and the functions of that gradient that the benchmark runs."""
    grad, *rest = inputs(case, dtype, device)
    return grad, {
        "ours": lambda grad: window_attention_backward(grad, *rest),
        "reference": lambda grad: reference.window_attention_backward(grad, *rest),
    }
