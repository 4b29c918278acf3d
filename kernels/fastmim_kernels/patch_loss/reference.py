"""Patch loss in plain torch: the definition of correct. Differentiable, in float64 too."""

import torch
from torch import Tensor

from .._element_loss import element_loss


def residual(pred, images, rows, p, mean, std, norm_pix, channels_first) -> Tensor:
    """Returns (N, P) prediction minus target, float32 or float64."""
    dtype = torch.promote_types(pred.dtype, torch.float32)
    b, h, w, c = images.shape
    patches = images.reshape(b, h // p, p, w // p, p, c).transpose(2, 3).reshape(b * (h // p) * (w // p), p * p, c)
    target = patches.index_select(0, rows).to(dtype)
    if images.dtype == torch.uint8:
        target = (target / 255 - mean) / std
    target = (target.transpose(1, 2) if channels_first else target).flatten(1)
    if norm_pix:
        var, mu = torch.var_mean(target, dim=1, keepdim=True)
        target = (target - mu) / (var + 1e-6).sqrt()
    if pred.ndim == 3:
        pred = pred[rows // pred.shape[1], rows % pred.shape[1]]
    return pred.to(dtype) - target


def patch_loss(pred, images, rows, p, mean, std, norm_pix, loss, alpha, gamma, channels_first, scale=None) -> Tensor:
    """Returns the mean of `element_loss` over all values; ignores `scale`, the factor on gradients."""
    d = residual(pred, images, rows, p, mean, std, norm_pix, channels_first)
    return element_loss(d, loss, alpha, gamma).sum() / max(d.numel(), 1)
