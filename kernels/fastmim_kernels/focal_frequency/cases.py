"""Named inputs of focal_frequency, for its tests and its benchmark."""

from dataclasses import dataclass

import torch

from .._targets import PARTS
from . import focal_frequency, reference


@dataclass(frozen=True)
class Case:
    planes: int
    size: tuple[int, int]
    alpha: float = 1.0
    gamma: float | None = None
    log: bool = False
    zero: bool = False
    """True = every other spectrum is 0."""


BENCH_DTYPES = ("fp32",)
BENCH = {
    "a2mim_resnet101, 16 images": Case(48, (224, 224), 0.2, 1.0),
    "focal frequency, 16 images": Case(48, (224, 224), log=True),
}
CASES = {
    "frequency": Case(3, (8, 8)),
    "frequency_log": Case(3, (224, 224), log=True),
    "frequency_alpha_2": Case(2, (5, 7), alpha=2.0),
    "frequency_alpha_half_log": Case(2, (6, 9), alpha=0.5, log=True),
    "focal": Case(3, (224, 224), 0.2, 1.0),
    "focal_odd": Case(5, (7, 5), 0.2, 1.0),
    "focal_power_0": Case(2, (4, 6), 0.2, 0.0),
    "focal_power_2.5": Case(2, (4, 6), 0.2, 2.5),
    "nothing": Case(4, (8, 8), 0.2, 1.0, zero=True),
    "nothing_log": Case(4, (8, 8), log=True, zero=True),
    "one_pixel": Case(1, (1, 1), log=True),
    "one_column": Case(2, (5, 1), 0.2, 1.0),
    "two_columns": Case(2, (1, 2), 0.2, 1.0),
    "no_planes": Case(0, (4, 4)),
}

VARIANTS = {
    label: (case, torch.float32)
    for label, case in {
        "focal frequency": Case(2, (8, 8)),
        "focal frequency log": Case(2, (8, 8), log=True),
        "focal frequency log, power": Case(2, (8, 8), alpha=2.0, log=True),
        "complex L1": Case(2, (8, 8), 0.2, 0.0),
        "complex focal L1": Case(2, (8, 8), 0.2, 1.0),
        "complex focal L1, power": Case(2, (8, 8), 0.2, 2.5),
    }.items()
}
PER_IMAGE = (0,)
TARGETS = (PARTS,)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.focal_frequency`, equal on every device."""
    height, width = case.size
    generator = torch.Generator().manual_seed(seed)
    spectrum = 2 * torch.randn(case.planes, height, width // 2 + 1, 2, generator=generator, dtype=dtype)
    if case.zero:
        spectrum[::2] = 0
    return spectrum.to(device), width, case.alpha, case.gamma, case.log


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided: the spectrum read and written."""
    return 16 * case.planes * case.size[0] * (case.size[1] // 2 + 1)


def flops(case: Case) -> int:
    """Counts about 12 operations per complex number: modulus, loss, slope and product."""
    return 12 * case.planes * case.size[0] * (case.size[1] // 2 + 1)


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the spectrum, and the functions of the spectrum that the benchmark runs, each on a copy."""
    spectrum, *rest = inputs(case, dtype, device)
    return spectrum, {
        "ours": lambda x: focal_frequency(x.clone(), *rest),
        "reference": lambda x: reference.focal_frequency(x.clone(), *rest),
    }
