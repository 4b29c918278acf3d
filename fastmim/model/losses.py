"""Losses: comparisons of predictions with targets. They have no parameters."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..parts import Loss


@dataclass(frozen=True)
class ElementLoss(Loss):
    """Base of losses that are a mean over entries, each a function of its own residual."""

    @abstractmethod
    def each(self, residual: Tensor) -> Tensor:
        """Returns the loss of each entry of residual = prediction - target, in the same shape."""

    def __call__(self, pred: Tensor, target: Tensor, hidden: Tensor | None = None) -> Tensor:
        return self.each(pred.float() - target).mean()


@dataclass(frozen=True)
class MaskedL1(ElementLoss):
    """Mean absolute error over hidden patches."""

    def each(self, residual: Tensor) -> Tensor:
        return residual.abs()


@dataclass(frozen=True)
class MaskedL2(ElementLoss):
    """Mean squared error over hidden patches (MAE, arXiv:2111.06377, section 3, "Reconstruction target")."""

    def each(self, residual: Tensor) -> Tensor:
        return residual.square()


def focal_l1(magnitude: Tensor, alpha: float, gamma: float) -> Tensor:
    """Computes m (2 sigmoid(alpha m) - 1)**gamma for magnitudes m >= 0 (openmixup `focal_l1_loss`)."""
    return magnitude * (0.5 * alpha * magnitude).tanh() ** gamma


def check_focal(part: Loss, alpha: float, gamma: float) -> None:
    """Checks that the formula and its gradient at 0 are defined for `alpha` and `gamma`.

    Raises:
        ValueError: alpha is not above 0, or gamma is neither 0 nor at least 1.
    """
    if not (alpha > 0 and (gamma == 0 or gamma >= 1)):
        name = type(part).__name__
        raise ValueError(f"{name}: expected alpha above 0 and gamma 0 or at least 1, got alpha={alpha}, gamma={gamma}")


@dataclass(frozen=True)
class MaskedFocalL1(ElementLoss):
    """Mean over hidden patches of |d| (2 sigmoid(alpha |d|) - 1)**gamma, d = prediction - target.

    Spatial loss of A2MIM's convolutional configs (openmixup `regression_loss.py`). For gamma = 1 and small |d|, the
    loss is a scaled square; gamma = 0 gives MaskedL1.
    """

    alpha: float = 0.2
    """Slope of the weight as a function of |d|."""
    gamma: float = 1.0
    """Power of the weight; 0 or at least 1."""

    def __post_init__(self):
        check_focal(self, self.alpha, self.gamma)

    def each(self, residual: Tensor) -> Tensor:
        return focal_l1(residual.abs(), self.alpha, self.gamma)


def half_spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """Computes half of the orthonormal DFT of real (..., H, W, C) images, and the weight of each column.

    The spectrum of a real image is Hermitian. So a sum of a function of |F| over all columns equals a weighted sum over
    half of the columns, in which inner columns count twice.

    Returns:
        (..., H, W // 2 + 1, C) complex spectrum, and (W // 2 + 1, 1) weights whose sum is W.
    """
    width = images.shape[-2]
    weights = torch.full((width // 2 + 1, 1), 2.0, device=images.device)
    weights[0] = 1
    if width % 2 == 0:
        weights[-1] = 1
    return torch.fft.rfft2(images.float(), dim=(-3, -2), norm="ortho"), weights


@dataclass(frozen=True)
class FourierLoss(Loss):
    """Base of losses that are a mean over the spectrum of the residual, prediction - target.

    The DFT is linear, so transforming the residual is enough.
    """

    whole: ClassVar[bool] = True

    @abstractmethod
    def of_residual(self, residual: Tensor) -> Tensor:
        """Computes the loss () of (B, H, W, C) residual images."""

    def __call__(self, pred: Tensor, target: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Compares (B, H, W, C) images; visible and hidden pixels count alike, see `WithFourier`."""
        return self.of_residual(pred.float() - target)


@dataclass(frozen=True)
class FocalFrequency(FourierLoss):
    """Focal frequency loss (arXiv:2012.12821): mean of w |F|**2, with a weight w that grows with |F|.

    No gradient flows through w. F is the orthonormal DFT of prediction - target, and s = |F|**alpha, or s = log(1 +
    |F|**alpha) with `log`. Then w = s / max s, and w = 0 if max s is 0. The defaults are A2MIM's in openmixup
    `focal_loss.py`, which averages the spectra of a micro-batch first: the loss sees one mean residual image. The form
    of A2MIM's paper is reduce="per_sample", log=False, peak="each".
    """

    alpha: float = 1.0
    """Power of |F| in the weight."""
    batch: int = 256
    """Images that share the mean spectrum and the largest weight; the loss depends on this number."""
    reduce: Literal["batch_mean", "per_sample"] = "batch_mean"
    """"batch_mean" = average the spectra of a batch first; "per_sample" = compare image by image."""
    log: bool = True
    """True = weigh by the logarithm of 1 + |F|**alpha."""
    peak: Literal["all", "each"] = "all"
    """Entry of weight 1: the largest of the batch ("all"), or of each image, crop, channel ("each")."""
    crops: int = 1
    """Crops per side; each crop is transformed separately."""

    def __post_init__(self):
        if self.alpha <= 0 or self.batch < 1 or self.crops < 1:
            raise ValueError(
                "FocalFrequency: expected alpha above 0, batch and crops at least 1, got "
                f"alpha={self.alpha}, batch={self.batch}, crops={self.crops}"
            )

    def misfit(self, size: tuple[int, int]) -> str | None:
        if size[0] % self.crops == 0 == size[1] % self.crops:
            return None
        fitting = [n for n in range(1, min(size) + 1) if size[0] % n == 0 == size[1] % n]
        near = min(fitting, key=lambda n: abs(n - self.crops))
        return f"FocalFrequency: crops={self.crops} do not divide images of {size}; the nearest is crops={near}"

    def of_residual(self, residual: Tensor) -> Tensor:
        size, height, width, channels = residual.shape
        n, p = self.batch if size % self.batch == 0 else size, self.crops
        x = residual.view(size // n, n, height, width, channels)
        if self.reduce == "batch_mean":
            x = x.mean(dim=1, keepdim=True)
        x = x.reshape(*x.shape[:2], p, height // p, p, width // p, channels).transpose(3, 4)
        spectrum, columns = half_spectrum(x)
        power = torch.view_as_real(spectrum).square().sum(dim=-1)
        s = power.detach().sqrt() ** self.alpha
        s = s.log1p() if self.log else s
        peak = s.amax(dim=(1, 2, 3, 4, 5, 6) if self.peak == "all" else (4, 5), keepdim=True)
        weight = s / peak.clamp(min=torch.finfo(s.dtype).tiny)
        return (columns * weight * power).sum() / x.numel()

    def note(self, batch: int) -> str | None:
        if (self.reduce == "per_sample" and self.peak == "each") or batch % self.batch == 0:
            return None
        return (
            f"its statistics are of {batch} images, the micro-batch, not of {self.batch} (FocalFrequency.batch): the "
            f"loss differs; use a micro-batch that is a multiple of {self.batch}"
        )


@dataclass(frozen=True)
class ComplexFocalL1(FourierLoss):
    """Mean over the spectra, image by image, of |F| (2 sigmoid(alpha |F|) - 1)**gamma; |F| for gamma = 0.

    F is the orthonormal DFT of prediction - target. A2MIM's ResNet-101 uses this loss (openmixup `mim_head.py`,
    `fft_focal=False`).
    """

    alpha: float = 0.2
    """Slope of the weight as a function of |F|."""
    gamma: float = 1.0
    """Power of the weight; 0 or at least 1."""

    def __post_init__(self):
        check_focal(self, self.alpha, self.gamma)

    def of_residual(self, residual: Tensor) -> Tensor:
        spectrum, columns = half_spectrum(residual)
        return (columns * focal_l1(spectrum.abs(), self.alpha, self.gamma)).sum() / residual.numel()


@dataclass(frozen=True)
class WithFourier(Loss):
    """A2MIM's loss: spatial over hidden pixels + weight * Fourier over all pixels.

    Source: arXiv:2205.13943; openmixup `mim_head.py`. The Fourier part compares whole images, which hold the prediction
    at hidden pixels and a value without gradient at visible pixels. Let d = prediction - target, with m = 1 at hidden
    pixels and m = `visible_weight` at visible pixels. The residual is m d + (1 - m) v. `visible` chooses v: d/2
    ("mixed", the official code), 0 ("target"), d ("prediction", the paper), or the image's mean - target ("mean"). No
    gradient flows through v.
    """

    whole: ClassVar[bool] = True

    spatial: ElementLoss = MaskedL1()
    """Loss of hidden pixels."""
    fourier: FourierLoss = FocalFrequency()
    """Fourier loss of whole images."""
    weight: float = 0.1
    """Factor of the Fourier part."""
    visible: Literal["mixed", "target", "prediction", "mean"] = "mixed"
    """Content of visible pixels in the Fourier part, see the class."""
    visible_weight: float = 0.0
    """Share m of the residual that has a gradient at visible pixels in the Fourier part, 0 to 1."""

    def __post_init__(self):
        if self.weight < 0 or not 0 <= self.visible_weight <= 1:
            raise ValueError(
                "WithFourier: expected weight at least 0 and visible_weight from 0 to 1, got "
                f"weight={self.weight}, visible_weight={self.visible_weight}"
            )

    def __call__(self, pred: Tensor, target: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Compares images.

        Args:
            pred: (B, H, W, C) predicted images.
            target: (B, H, W, C) fp32 images.
            hidden: (B, H, W, 1) bool, True = hidden.

        Raises:
            ValueError: `hidden` is None.
        """
        if hidden is None:
            raise ValueError("WithFourier: expected the hidden pixels, got None")
        d = pred.float() - target
        spatial = (self.spatial.each(d) * hidden).sum() / (hidden.sum() * d.shape[-1])
        live = hidden + ~hidden * self.visible_weight
        match self.visible:
            case "mixed":
                rest = 0.5 * d.detach()
            case "target":
                rest = torch.zeros_like(d)
            case "prediction":
                rest = d.detach()
            case "mean":
                rest = target.mean(dim=(1, 2), keepdim=True) - target
        return spatial + self.weight * self.fourier.of_residual(live * d + (1 - live) * rest)

    def misfit(self, size: tuple[int, int]) -> str | None:
        return self.fourier.misfit(size)

    def note(self, batch: int) -> str | None:
        return self.fourier.note(batch)
