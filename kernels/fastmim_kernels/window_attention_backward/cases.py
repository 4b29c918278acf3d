"""Named inputs of window_attention_backward, for its tests and its benchmark: those of window_attention."""

import torch

from ..window_attention import cases as forward
from . import reference, window_attention_backward

Case, CASES, BENCH, BENCH_DTYPES = forward.Case, forward.CASES, forward.BENCH, forward.BENCH_DTYPES

VARIANTS = forward.VARIANTS | {
    f"{label} queries": (case, dtype) for label, (case, dtype) in forward.VARIANTS.items() if case.grid[0] > 8
}
PER_IMAGE = (0, 1, 2)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """The arguments of `torch.ops.fastmim.window_attention_backward`, those of type `dtype`; same on every device."""
    generator = torch.Generator().manual_seed(seed + 1)
    gap = 1 + case.strided
    grad = torch.randn(case.batch, *case.grid, gap * case.num_heads * case.dim, generator=generator)
    return grad.to(device, dtype)[..., ::gap], *forward.inputs(case, dtype, device, seed)


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Bytes that cannot be avoided: qkv and the incoming gradient read, qkv's gradient written."""
    return forward.bytes_moved(case, dtype) * 7 // 11


def flops(case: Case) -> int:
    """Of five matrix products."""
    return forward.flops(case) * 5 // 7


def functions(case: Case, dtype: torch.dtype, device: str):
    """grad, and the functions of it that the benchmark runs."""
    grad, *rest = inputs(case, dtype, device)
    return grad, {
        "ours": lambda grad: window_attention_backward(grad, *rest),
        "reference": lambda grad: reference.window_attention_backward(grad, *rest),
    }
