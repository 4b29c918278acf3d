"""Targets: what the hidden patches are compared with. Parameter-free; may import L1 and L0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from fastmim_kernels import low_pass

from ..parts import Target


@dataclass(frozen=True)
class Pixels(Target):
    """The mean/std-normalised pixels themselves."""


@dataclass(frozen=True)
class NormalizedPatches(Target):
    """Pixels standardised within each patch (MAE's `norm_pix_loss`)."""

    norm_pix: ClassVar[bool] = True


@dataclass(frozen=True)
class LowPass(Target):
    """The image without its high frequencies (PixMIM, arXiv:2303.02416; mmselfsup `low_freq_generator.py`).

    With x the pixels of a channel on the 0..1 scale: t = |IDFT2(M . DFT2(x))|, the complex modulus, where M is 1 on a
    disc of the frequencies and 0 elsewhere. Then mean and std are taken off again, and patches are standardised. The
    encoder reads the image as it is.
    """

    radius: float = 40
    """Radius of the disc, cycles per image, which is not scaled with the image. 40 was published for 224 pixels; from
    half the image's diagonal on, the filter removes nothing."""
    center: Literal["official", "dc"] = "official"
    """"official": on a side of an even number of pixels n, the centre is at frequency -1/2, as the official code has
    (n - 1) / 2 in a spectrum whose origin is at n / 2. So frequencies -40 and 39 remain, -41 and 40 do not, and the
    filtered image is complex. "dc": at frequency 0, which is symmetric."""
    norm_pix: bool = field(default=True, kw_only=True)
    """Standardise each patch after the filter, as published."""
    allow_tf32: bool = field(default=False, kw_only=True)
    """On GPUs, one TF32 matrix product in place of three: the rms error of a filtered 224-pixel image, in deviations of
    the data, is 2.5e-4 in place of 8e-8 and the largest 1e-3 (see `low_pass`). The CPU computes in float32."""

    def __post_init__(self):
        if not self.radius >= 1:
            raise ValueError(f"target.radius: expected at least 1 cycle per image, got {self.radius}")
        if self.center not in ("official", "dc"):
            raise ValueError(f'target.center is "official" or "dc"; got {self.center!r}')

    def source(
        self, images: Tensor, mean: Tensor, std: Tensor, rows: Tensor | None = None, patch_size: int = 1
    ) -> Tensor:
        options = {"radius": self.radius, "center": self.center, "allow_tf32": self.allow_tf32}
        return low_pass(images, mean, std, rows=rows, patch_size=patch_size, **options)
