"""Focal frequency loss and its complex L1 form, on residual images, with gradients in closed form."""

from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import _op
from . import reference


def focal_frequency(
    spectrum: Tensor, width: int, alpha: float, gamma: float | None, log: bool
) -> tuple[Tensor, Tensor]:
    """Sums a loss over each spectrum, and overwrites the spectrum with the gradient's spectrum.

    Let m = |F| for each entry F of a spectrum.
        focal frequency loss (gamma None; arXiv:2012.12821): s = m^alpha or log(1 + m^alpha), a weight without gradient.
            The loss is s m^2; F becomes 2 s F.
        complex focal L1 loss (openmixup `mim_head.py`): the loss is v(m) = m tanh(alpha m / 2)^gamma; F becomes
            v'(m) F / m, or 0 where m is 0.
    The inverse transform of the new spectrum is the gradient.

    Args:
        spectrum: (N, h, width // 2 + 1, 2) float32, contiguous: real and imaginary parts of the half spectra of real
            (N, h, width) images, in which inner columns stand for two. Changed in place.
        width: columns of the images, in pixels.
        alpha: above 0; see the formulas.
        gamma: None, 0 or at least 1; see the formulas.
        log: True = s = log(1 + m^alpha). For focal frequency loss only.
    Returns: (N,) float32 sums over the whole spectrum; (N,) float32 largest s, 1 for the complex focal L1 loss.
    Raises:
        ValueError: shape, type or numbers do not fit.
    """
    args = (spectrum, width, alpha, gamma, log)
    _check(*args)
    return reference.focal_frequency(*args) if _op.using_reference() else OP.overload(*args)


def _check(spectrum, width, alpha, gamma, log) -> None:
    good = spectrum.ndim == 4 and spectrum.dtype == torch.float32 and spectrum.is_contiguous()
    if not good or spectrum.shape[2:] != (width // 2 + 1, 2) or width < 1 or spectrum.shape[1] < 1:
        raise ValueError(
            f"expected a contiguous (N, h, {width // 2 + 1}, 2) float32 spectrum of columns of {width} pixels, "
            f"got {tuple(spectrum.shape)} {spectrum.dtype}, strides {spectrum.stride()}"
        )
    if not (alpha > 0 and (gamma is None or gamma == 0 or gamma >= 1)):
        raise ValueError(f"expected alpha above 0 and gamma None, 0 or at least 1, got {alpha} and {gamma}")


def _fake(spectrum, width, alpha, gamma, log):
    _check(spectrum, width, alpha, gamma, log)
    return spectrum.new_empty(spectrum.shape[0]), spectrum.new_empty(spectrum.shape[0])


OP = _op.register(
    "focal_frequency(Tensor(a!) spectrum, int width, float alpha, float? gamma, bool log) "
    "-> (Tensor sums, Tensor peaks)",
    reference=reference.focal_frequency,
    fake=_fake,
)


def focal_frequency_loss(
    residual: Tensor,
    *,
    alpha: float,
    gamma: float | None = None,
    log: bool = False,
    peak: Literal["all", "each"] = "each",
    batch: int = 1,
    crops: int = 1,
) -> Tensor:
    """Returns the mean focal frequency loss of residual images; see `focal_frequency`.

    The loss is computed on orthonormal spectra. The weights s are divided by the largest weight: the largest of each
    `batch` images (peak "all"), or of each image, crop and channel ("each"). If all weights are 0, they stay 0. The
    division is applied to the gradient last, so that one transform and one inverse suffice, and the host never waits.

    If the gradient is needed, the forward pass forms the gradient, and the backward pass multiplies it in place by the
    incoming gradient. A second backward pass through the same graph would multiply twice, so it raises an error.

    Args:
        residual: (B, H, W, C) float32.
        alpha: above 0; see `focal_frequency`.
        gamma: None = focal frequency loss, else complex focal L1 loss; see `focal_frequency`.
        log: see `focal_frequency`.
        peak: set over which the largest weight is taken, "all" or "each", see above.
        batch: images that share the largest weight if peak is "all"; divides B.
        crops: crops along each side. Each crop is transformed separately.
    Returns: () float32.
    Raises:
        ValueError: shapes, type or numbers do not fit.
    """
    if residual.ndim != 4 or residual.dtype != torch.float32 or peak not in ("all", "each"):
        raise ValueError(
            'expected residual (B, H, W, C) float32 and peak "all" or "each", '
            f"got {tuple(residual.shape)} {residual.dtype} and {peak!r}"
        )
    size, height, width, _ = residual.shape
    if crops < 1 or batch < 1 or height % crops or width % crops or size % batch or not residual.numel():
        raise ValueError(
            f"residual: expected images that divide into {crops} x {crops} crops and batches of {batch}, "
            f"got {tuple(residual.shape)}"
        )
    with_grad = torch.is_grad_enabled() and residual.requires_grad
    return _FocalFrequencyLoss.apply(residual, alpha, gamma, log, peak, batch, crops, with_grad)


class _FocalFrequencyLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, residual, alpha, gamma, log, peak, batch, crops, with_grad):
        size, height, width, channels = residual.shape
        tiles = (crops, height // crops, crops, width // crops, channels)
        shape = (crops, crops, channels, *tiles[1:4:2])
        grad = torch.empty_like(residual, memory_format=torch.contiguous_format) if with_grad else residual.new_empty(0)
        sums, peaks = [], []
        # Few images at a time, so that their spectra, the only complex tensors, stay in the cache.
        count = 2 if residual.is_cpu else 16
        for start in range(0, size, count):
            images = residual[start : start + count]
            planes = images.reshape(-1, *tiles).permute(0, 1, 3, 5, 2, 4).reshape(-1, *shape[3:])
            spectrum = torch.view_as_real(torch.fft.rfft2(planes, norm="ortho")).contiguous()
            del planes
            total, peak_of = focal_frequency(spectrum, shape[4], alpha, gamma, log)
            sums.append(total)
            peaks.append(peak_of)
            if with_grad:
                planes = torch.fft.irfft2(torch.view_as_complex(spectrum), s=shape[3:], norm="ortho")
                out = grad[start : start + count].view(-1, *tiles)
                out.copy_(planes.view(-1, *shape).permute(0, 1, 4, 2, 5, 3))
        # Sums and scale are (images, crops, crops, channels).
        sums, scale = (torch.cat(x).view(size, *shape[:3]) for x in (sums, peaks))
        if peak == "all":
            scale = scale.view(size // batch, -1).amax(1).repeat_interleave(batch)[:, None, None, None]
        scale = 1 / (scale.clamp(min=torch.finfo(scale.dtype).tiny) * residual.numel())
        if with_grad:
            ctx.save_for_backward(grad, scale)
            ctx.tiles = tiles
        return (sums * scale).sum()

    @staticmethod
    @once_differentiable  # torch's decorator makes ctx positional-only, unlike torch's base class
    def backward(ctx, *grad_outputs):  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad_loss,) = grad_outputs
        grad, scale = ctx.saved_tensors
        grad.view(-1, *ctx.tiles).mul_((scale * grad_loss)[:, :, None, :, None])
        return grad, *[None] * 7
