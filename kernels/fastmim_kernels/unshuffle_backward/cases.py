"""Inputs of unshuffle_backward: those of unshuffle, with and without positions."""

from dataclasses import dataclass, replace

import torch

from .._targets import PARTS
from ..unshuffle import cases as forward
from . import reference, unshuffle_backward


@dataclass(frozen=True)
class Case:
    forward: forward.Case
    with_pos: bool = False


BENCH_DTYPES = forward.BENCH_DTYPES
BENCH = {
    **{name: Case(case) for name, case in forward.BENCH.items()},
    "mae_vit_b/16, l/16 positions": Case(forward.BENCH["mae_vit_b/16, l/16"], with_pos=True),
}
CASES = {
    **{name: Case(case) for name, case in forward.CASES.items()},
    **{f"{name} positions": Case(case, with_pos=True) for name, case in forward.CASES.items()},
}

_DECODER = forward.Case(batch=2, num_patches=9, num_keep=4, dim=512)
_RASTER = replace(_DECODER, raster=True)
VARIANTS = {
    "fp32": (Case(_DECODER), torch.float32),
    "fp32 bf16 (autocast)": (Case(replace(_DECODER, params=torch.bfloat16)), torch.float32),
    "bf16 raster": (Case(_RASTER), torch.bfloat16),
    "positions bf16": (Case(_RASTER, with_pos=True), torch.bfloat16),
}
PER_IMAGE = (0, 1)
TARGETS = (PARTS,)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.unshuffle_backward`, equal on every device.

    dtype: type of `grad`.
    """
    generator = torch.Generator().manual_seed(seed)
    shape, gap = case.forward, 1 + case.forward.strided
    ids = forward.permutations(shape, generator).to(device)
    grad = torch.randn(shape.batch, shape.num_prefix + shape.num_patches, gap * shape.dim, generator=generator)
    grad = grad.to(device, dtype)[..., ::gap]
    return grad, ids, shape.num_keep, shape.raster, shape.params or dtype, case.with_pos


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided: `grad` read, the gradient of the latent written."""
    return forward.bytes_moved(case.forward, dtype) // 2


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the incoming gradient, and the functions of that gradient that the benchmark runs."""
    grad, *rest = inputs(case, dtype, device)
    return grad, {
        "ours": lambda grad: unshuffle_backward(grad, *rest),
        "reference": lambda grad: reference.unshuffle_backward(grad, *rest),
    }
