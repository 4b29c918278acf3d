"""Named inputs of unshuffle_backward, for its tests and its benchmark: those of unshuffle, with and without pos."""

from dataclasses import dataclass

import torch

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


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """The arguments of `torch.ops.fastmim.unshuffle_backward`, with grad of type `dtype`; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    shape, gap = case.forward, 1 + case.forward.strided
    ids = forward.permutations(shape, generator).to(device)
    grad = torch.randn(shape.batch, shape.num_prefix + shape.num_patches, gap * shape.dim, generator=generator)
    grad = grad.to(device, dtype)[..., ::gap]
    return grad, ids, shape.num_keep, shape.raster, shape.params or dtype, case.with_pos


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Bytes that cannot be avoided: grad read, latent's gradient written."""
    return forward.bytes_moved(case.forward, dtype) // 2


def functions(case: Case, dtype: torch.dtype, device: str):
    """grad, and the functions of it that the benchmark runs."""
    grad, *rest = inputs(case, dtype, device)
    return grad, {
        "ours": lambda grad: unshuffle_backward(grad, *rest),
        "reference": lambda grad: reference.unshuffle_backward(grad, *rest),
    }
