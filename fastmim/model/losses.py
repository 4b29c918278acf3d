"""Losses: how a prediction is compared with its target. Parameter-free; may import L1 and L0."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..parts import Loss


@dataclass(frozen=True)
class ElementLoss(Loss):
    """A mean over entries, each of which is a function of its own residual."""

    @abstractmethod
    def each(self, residual: Tensor) -> Tensor:
        """The loss of every entry of prediction - target, in the same shape."""

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
    """m * (2 sigmoid(alpha m) - 1) ** gamma of magnitudes m >= 0 (openmixup `regression_loss.py`, "focal_l1_loss")."""
    return magnitude * (0.5 * alpha * magnitude).tanh() ** gamma


def check_focal(part: Loss, alpha: float, gamma: float) -> None:
    """Refuses an `alpha` or `gamma` that the formula, or its gradient at 0, does not cover."""
    if not (alpha > 0 and (gamma == 0 or gamma >= 1)):
        name = type(part).__name__
        raise ValueError(f"{name}: expected alpha above 0 and gamma 0 or at least 1, got alpha={alpha}, gamma={gamma}")


@dataclass(frozen=True)
class MaskedFocalL1(ElementLoss):
    """Mean over hidden patches of |d| (2 sigmoid(alpha |d|) - 1) ** gamma, which for small |d| is a scaled square.

    The spatial loss of A2MIM's convolutional configs (openmixup `regression_loss.py`). gamma = 0 is MaskedL1.
    """

    alpha: float = 0.2
    """Slope of the weight in the residual."""
    gamma: float = 1.0
    """Power of the weight; 0 or at least 1."""

    def __post_init__(self):
        check_focal(self, self.alpha, self.gamma)

    def each(self, residual: Tensor) -> Tensor:
        return focal_l1(residual.abs(), self.alpha, self.gamma)


def half_spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal DFT of real (..., H, W, C) images, half of the columns, and how often each column counts.

    The spectrum of a real image is Hermitian, so a sum over all columns of anything that depends on |F| is a sum over
    half of them in which inner columns count twice.

    Returns: (..., H, W // 2 + 1, C) complex, and (W // 2 + 1, 1) weights whose sum is W.
    """
    width = images.shape[-2]
    weights = torch.full((width // 2 + 1, 1), 2.0, device=images.device)
    weights[0] = 1
    if width % 2 == 0:
        weights[-1] = 1
    return torch.fft.rfft2(images.float(), dim=(-3, -2), norm="ortho"), weights


@dataclass(frozen=True)
class FourierLoss(Loss):
    """A mean over the whole spectrum of prediction - target: the DFT is linear, so only the residual is transformed."""

    whole: ClassVar[bool] = True

    @abstractmethod
    def of_residual(self, residual: Tensor) -> Tensor:
        """The loss () of (B, H, W, C) residual images."""

    def __call__(self, pred: Tensor, target: Tensor, hidden: Tensor | None = None) -> Tensor:
        """pred, target: (B, H, W, C). Visible pixels count as hidden ones do; WithFourier tells them apart."""
        return self.of_residual(pred.float() - target)


@dataclass(frozen=True)
class FocalFrequency(FourierLoss):
    """Focal frequency loss (arXiv:2012.12821): mean of w |F|**2, where w grows with |F| and carries no gradient.

    F: orthonormal DFT of prediction - target; s = |F|**alpha; with `log`, s = log(1 + s); w = s / max s, 0 where that
    is 0 / 0. Defaults are A2MIM's in openmixup `focal_loss.py`, which first averages the spectra of a micro-batch: a
    loss of ONE mean residual image. The form of A2MIM's paper is reduce="per_sample", log=False, peak="each".
    """

    alpha: float = 1.0
    """Power of |F| in the weight."""
    batch: int = 256
    """Images whose spectra are averaged, and whose largest entry is 1: a statistic that the loss depends on."""
    reduce: Literal["batch_mean", "per_sample"] = "batch_mean"
    """Average the spectra of a batch first, or compare image by image."""
    log: bool = True
    """Weigh by log(1 + s)."""
    peak: Literal["all", "each"] = "all"
    """The weight is 1 at the largest entry of the batch, or of each image, crop and channel."""
    crops: int = 1
    """Crops per side, each transformed on its own."""

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
            f"loss is another one; a micro-batch that is a multiple of {self.batch} gives it"
        )


@dataclass(frozen=True)
class ComplexFocalL1(FourierLoss):
    """Mean over the spectra, image by image, of |F| (2 sigmoid(alpha |F|) - 1) ** gamma; gamma = 0: of |F|.

    F: orthonormal DFT of prediction - target. A2MIM's ResNet-101 (openmixup `mim_head.py`, `fft_focal=False`).
    """

    alpha: float = 0.2
    """Slope of the weight in |F|."""
    gamma: float = 1.0
    """Power of the weight; 0 or at least 1."""

    def __post_init__(self):
        check_focal(self, self.alpha, self.gamma)

    def of_residual(self, residual: Tensor) -> Tensor:
        spectrum, columns = half_spectrum(residual)
        return (columns * focal_l1(spectrum.abs(), self.alpha, self.gamma)).sum() / residual.numel()


@dataclass(frozen=True)
class WithFourier(Loss):
    """A2MIM's loss (arXiv:2205.13943; openmixup `mim_head.py`): spatial over hidden pixels + weight * Fourier over all.

    The Fourier part sees the prediction where pixels are hidden and a composite with no gradient where they are
    visible. With d = prediction - target and m = 1 on hidden, `visible_weight` on visible pixels, it is given
    m d + (1 - m) v, where v is d/2 ("mixed", official), 0 ("target"), d ("prediction", the paper's) or the image's
    mean - target ("mean"), d without gradient.
    """

    whole: ClassVar[bool] = True

    spatial: ElementLoss = MaskedL1()
    """Compares hidden pixels."""
    fourier: FourierLoss = FocalFrequency()
    """Compares spectra."""
    weight: float = 0.1
    """Factor of the Fourier part."""
    visible: Literal["mixed", "target", "prediction", "mean"] = "mixed"
    """Content of visible pixels in the Fourier part."""
    visible_weight: float = 0.0
    """Share of the live prediction at visible pixels in the Fourier part."""

    def __post_init__(self):
        if self.weight < 0 or not 0 <= self.visible_weight <= 1:
            raise ValueError(
                "WithFourier: expected weight at least 0 and visible_weight from 0 to 1, got "
                f"weight={self.weight}, visible_weight={self.visible_weight}"
            )

    def __call__(self, pred: Tensor, target: Tensor, hidden: Tensor | None = None) -> Tensor:
        """
        Args:
            pred, target: (B, H, W, C) fp32 images.
            hidden: (B, H, W, 1) bool.
        """
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
