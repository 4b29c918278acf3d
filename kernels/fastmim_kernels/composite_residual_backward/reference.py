"""Gradient of the composite residual in plain torch: the definition of correct."""

import torch
from torch import Tensor

from .._element_loss import element_loss_slope


def residual(pred, images, ids, p, mean, std) -> tuple[Tensor, Tensor]:
    """Returns prediction minus target, and target: (B, L, P), in the order of ids, at least float32."""
    b, h, w, c = images.shape
    patches = images.reshape(b, h // p, p, w // p, p, c).transpose(2, 3).reshape(b, ids.shape[1], p * p, c)
    target = patches.gather(1, ids[..., None, None].expand(-1, -1, p * p, c))
    target = target.to(torch.promote_types(pred.dtype, torch.float32))
    target = ((target / 255 - mean) / std if images.dtype == torch.uint8 else target).flatten(2)
    return pred.to(target.dtype) - target, target


def composite_residual_backward(
    grad_loss, grad_residual, pred, images, ids, mean, std, num_keep, p, loss, alpha, gamma, visible_weight, average
) -> Tensor:
    d = residual(pred, images, ids, p, mean, std)[0][:, num_keep:]
    slope = element_loss_slope(d, loss, alpha, gamma) * (grad_loss / max(d.numel(), 1))
    b, h, w, c = images.shape
    x = (grad_residual / average).repeat_interleave(average, 0)
    x = x.reshape(b, h // p, p, w // p, p, c).transpose(2, 3).reshape(b, ids.shape[1], p * p * c)
    x = x.gather(1, ids[..., None].expand_as(pred))
    return torch.cat([visible_weight * x[:, :num_keep], x[:, num_keep:] + slope], dim=1).to(pred.dtype)
