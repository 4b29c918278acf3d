"""Targets: what the hidden patches are compared with. Parameter-free; may import L1 and L0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .tokens import Target


@dataclass(frozen=True)
class Pixels(Target):
    """The mean/std-normalised pixels themselves."""


@dataclass(frozen=True)
class NormalizedPatches(Target):
    """Pixels standardised within each patch (MAE's `norm_pix_loss`)."""

    norm_pix: ClassVar[bool] = True
