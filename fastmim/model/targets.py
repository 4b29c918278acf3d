"""Targets: the values that predictions of hidden patches are compared with. They have no parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fastmim_kernels import low_pass

from ..parts import Target


@dataclass(frozen=True)
class Pixels(Target):
    """The normalised pixels."""


@dataclass(frozen=True)
class NormalizedPatches(Target):
    """Pixels standardised within each patch (MAE's `norm_pix_loss`)."""

    @property
    def standardizes(self) -> bool:
        return True


@dataclass(frozen=True)
class LowPass(Target):
    """The image without its high frequencies (PixMIM, arXiv:2303.02416).

    Official code: mmselfsup `low_freq_generator.py`.

    With x the pixels of a channel on the 0..1 scale, t = |IDFT2(M . DFT2(x))|, the complex modulus. M is 1 on a disc of
    frequencies and 0 elsewhere. The result is normalised with mean and std, and each patch is standardised. The encoder
    reads the unfiltered image.
    """

    radius: float = 40
    """Radius of the disc, cycles per image; not scaled with the image size.

    40 is published for 224 pixels. From half of the image's diagonal on, the filter removes nothing.
    """
    center: Literal["official", "dc"] = "official"
    """Centre of the disc: "official" = frequency -1/2 on even sides, "dc" = frequency 0.

    The official code centres the disc on (n - 1) / 2 in a spectrum of n frequencies whose origin is at n / 2. So
    frequencies -40 and 39 remain, -41 and 40 do not, and the filtered image is complex. The disc of "dc" is symmetric.
    """
    norm_pix: bool = field(default=True, kw_only=True)
    """True = standardise each patch after the filter, as published."""
    allow_tf32: bool = field(default=False, kw_only=True)
    """True = one TF32 matrix product on GPUs instead of three; the CPU computes in float32.

    The rms error of a filtered 224-pixel image, in standard deviations of the data, is then 2.5e-4 instead of 8e-8. The
    largest error is 1e-3 (see `low_pass`).
    """

    def __post_init__(self):
        if not self.radius >= 1:
            raise ValueError(f"target.radius: expected at least 1 cycle per image, got {self.radius}")
        if self.center not in ("official", "dc"):
            raise ValueError(f'target.center is "official" or "dc"; got {self.center!r}')

    @property
    def standardizes(self) -> bool:
        return self.norm_pix

    def source(
        self, images: Tensor, mean: Tensor, std: Tensor, rows: Tensor | None = None, patch_size: int = 1
    ) -> Tensor:
        return low_pass(
            images,
            mean,
            std,
            radius=self.radius,
            center=self.center,
            rows=rows,
            patch_size=patch_size,
            allow_tf32=self.allow_tf32,
        )
