"""Focal frequency losses and their gradients in plain torch: the definition of correct."""

import torch
from torch import Tensor


def focal_frequency(spectrum, width, alpha, gamma, log) -> tuple[Tensor, Tensor]:
    power = spectrum.square().sum(-1)
    m = power.sqrt()
    columns = torch.full((m.shape[2],), 2.0, dtype=m.dtype, device=m.device)
    columns[0] = 1
    if width % 2 == 0:
        columns[-1] = 1
    if gamma is None:
        s = (m**alpha).log1p() if log else m**alpha
        value, factor, peaks = s * power, 2 * s, s.amax((1, 2))
    else:
        t = (0.5 * alpha * m).tanh()
        value = m * t**gamma
        slope = t**gamma + m * gamma * t ** max(gamma - 1, 0) * 0.5 * alpha * (1 - t.square())
        factor, peaks = torch.where(m > 0, slope / m, 0), m.new_ones(m.shape[0])
    spectrum.mul_(factor[..., None])
    return (columns * value).sum((1, 2)), peaks
