"""Named inputs of scale_gradient, for its tests and its benchmark."""

from dataclasses import dataclass

import torch

from .._targets import PARTS
from . import reference, scale_gradient


@dataclass(frozen=True)
class Case:
    shape: tuple[int, ...]
    factor: float


BENCH_DTYPES = ("fp32", "bf16")
BENCH = {
    "mae_vit_b gradient, 1": Case((64 * 147, 768), 1.0),
    "mae_vit_b gradient, -1": Case((64 * 147, 768), -1.0),
}

CASES = {
    "one": Case((5, 48), 1.0),
    "half": Case((7, 768), 0.5),
    "primes": Case((13, 1009), 1 / 3),
    "scalar": Case((), -2.0),
    "nan": Case((3, 5), float("nan")),
    "empty": Case((0, 768), 2.0),
}

_LARGE = Case((1025, 1024), 0.5)  # more than one round per program
VARIANTS = {
    "fp32": (_LARGE, torch.float32),
    "bf16": (_LARGE, torch.bfloat16),
    "fp16": (_LARGE, torch.float16),
}
TARGETS = (PARTS,)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.scale_gradient`, equal on every device.

    dtype: type of x.
    """
    x = torch.randn(case.shape, generator=torch.Generator().manual_seed(seed))
    return x.to(device, dtype), torch.tensor(case.factor, device=device)


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided: x read and written, unless the factor is 1."""
    return 0 if case.factor == 1 else 2 * torch.Size(case.shape).numel() * dtype.itemsize


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns x, and the functions of x that the benchmark runs."""
    x, factor = inputs(case, dtype, device)
    return x, {"ours": lambda x: scale_gradient(x, factor), "reference": lambda x: reference.scale_gradient(x, factor)}
