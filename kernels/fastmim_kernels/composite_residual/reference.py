"""Composite residual in plain torch: the definition of correct.

Differentiable; float64 if `pred` is float64.
"""

import torch
from torch import Tensor

from .._element_loss import element_loss
from ..composite_residual_backward.reference import residual


def composite_residual(
    pred, images, ids, num_keep, p, mean, std, fill, loss, alpha, gamma, visible_value, visible_weight, average
) -> tuple[Tensor, Tensor]:
    d, target = residual(pred, images, ids, p, mean, std)
    seen, each = d[:, :num_keep], element_loss(d[:, num_keep:], loss, alpha, gamma)
    rest = visible_value * seen.detach() + visible_weight * (seen - seen.detach())
    if fill is not None:
        rest = rest + (1 - visible_weight) * (fill.repeat(1, p * p)[:, None] - target[:, :num_keep])
    x = torch.zeros_like(d).scatter(1, ids[..., None].expand_as(d), torch.cat([rest, d[:, num_keep:]], dim=1))
    b, h, w, c = images.shape
    x = x.reshape(b // average, average, h // p, w // p, p, p, c).mean(1).transpose(2, 3)
    return each.sum() / max(each.numel(), 1), x.reshape(b // average, h, w, c)
