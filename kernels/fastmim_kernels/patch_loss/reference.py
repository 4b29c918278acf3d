"""Patch loss in plain torch: the definition of correct. Differentiable; runs in float64 when `pred` is float64."""

import torch
from torch import Tensor


def residual(pred, images, rows, patch_size, mean, std, norm_pix) -> Tensor:
    """(N, P) prediction minus target, float32 or float64."""
    dtype = torch.promote_types(pred.dtype, torch.float32)
    b, h, w, c = images.shape
    p = patch_size
    patches = images.reshape(b, h // p, p, w // p, p, c).transpose(2, 3).reshape(b * (h // p) * (w // p), p * p, c)
    target = patches.index_select(0, rows).to(dtype)
    if images.dtype == torch.uint8:
        target = (target / 255 - mean) / std
    target = target.flatten(1)
    if norm_pix:
        var, mu = torch.var_mean(target, dim=1, keepdim=True)
        target = (target - mu) / (var + 1e-6).sqrt()
    return pred.to(dtype) - target


def patch_loss(pred, images, rows, patch_size, mean, std, norm_pix, l1) -> Tensor:
    """Mean over all N * P values of |residual| or residual ** 2."""
    d = residual(pred, images, rows, patch_size, mean, std, norm_pix)
    return (d.abs() if l1 else d.square()).sum() / max(d.numel(), 1)
