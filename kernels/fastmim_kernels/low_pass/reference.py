"""Low-pass filter in plain torch, with the FFT: the definition of correct."""

import torch
from torch import Tensor


def disc(size: tuple[int, int], radius: float, official: bool, device: torch.device | None = None) -> Tensor:
    """Returns (H, W) bool, True for the frequencies that remain, in the order of torch.fft."""
    rows, columns = (
        torch.fft.fftfreq(n, 1 / n, device=device, dtype=torch.float64).round()
        + (n // 2 - (n - 1) / 2 if official else 0.0)
        for n in size
    )
    return rows.square()[:, None] + columns.square() <= radius**2


def low_pass(images, rows, p, mean, std, radius, official, allow_tf32) -> Tensor:
    b, h, w, c = images.shape
    x = images.to(mean.dtype)  # torch has no half-precision FFT of 224
    if not x.numel():
        return x  # torch 2.11 has no FFT of an empty tensor
    if images.dtype == torch.uint8:
        x = (x / 255 - mean) / std
    spectrum = torch.fft.fft2(x, dim=(1, 2)) * disc((h, w), radius, official, x.device)[..., None]
    # The mean passes the filter, so the affine map may follow. The modulus is taken on the 0..1 scale.
    x = ((torch.fft.ifft2(spectrum, dim=(1, 2)) * std + mean).abs() - mean) / std
    if rows is not None:
        wanted = torch.zeros(b * (h // p) * (w // p), dtype=torch.bool, device=x.device).index_fill(0, rows, True)
        x = x.view(b, h // p, p, w // p, p, c).where(wanted.view(b, h // p, 1, w // p, 1, 1), 0).view(b, h, w, c)
    return x
