"""Gradient of composite_residual, from a second read of predictions and pixels."""

import torch
from torch import Tensor

from .. import _op
from .._check import check_one_device, check_predictions
from . import reference


def composite_residual_backward(
    grad_loss: Tensor,
    grad_residual: Tensor,
    pred: Tensor,
    images: Tensor,
    ids: Tensor,
    mean: Tensor,
    std: Tensor,
    num_keep: int,
    patch_size: int,
    loss: int,
    alpha: float,
    gamma: float,
    visible_weight: float,
    average: int,
) -> Tensor:
    """Returns the gradient of the predictions of `composite_residual`.

    For n hidden values, the gradient is
        grad_loss slope(d) / n + grad_residual / average    where hidden
        visible_weight grad_residual / average              where visible
    Pixels and predictions of visible patches are not read.

    Args:
        grad_loss: () float32.
        grad_residual: (B / average, H, W, C) float32.
        pred: see `composite_residual`.
        images: see `composite_residual`.
        ids: see `composite_residual`.
        mean: see `composite_residual`.
        std: see `composite_residual`.
        num_keep: see `composite_residual`.
        patch_size: see `composite_residual`.
        loss: 0 = L1, 1 = L2, 2 = focal L1.
        alpha: see `composite_residual`.
        gamma: see `composite_residual`.
        visible_weight: see `composite_residual`.
        average: see `composite_residual`.
    Returns: (B, L, P) of pred's type.
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: a row of `ids` is no permutation, on a CPU only.
    """
    args = (grad_loss, grad_residual, pred, images, ids, mean, std, num_keep, patch_size, loss, alpha, gamma)
    args = (*args, visible_weight, average)
    _check(*args)
    return OP.overload(*args)


def _check(
    grad_loss, grad_residual, pred, images, ids, mean, std, num_keep, patch_size, loss, alpha, gamma, weight, average
) -> None:
    check_predictions(pred, images, ids, num_keep, patch_size, mean, std)
    shape = (images.shape[0] // max(average, 1), *images.shape[1:])
    if average < 1 or images.shape[0] % average or grad_residual.shape != shape or grad_loss.shape != ():
        raise ValueError(
            f"expected gradients () and (B / average, H, W, C) of images {tuple(images.shape)}, average {average}, "
            f"got {tuple(grad_loss.shape)} and {tuple(grad_residual.shape)}"
        )
    if grad_loss.dtype != torch.float32 or grad_residual.dtype != torch.float32 or loss not in (0, 1, 2):
        raise ValueError(
            f"expected float32 gradients and loss 0, 1 or 2, got {grad_loss.dtype}, {grad_residual.dtype} and {loss}"
        )
    check_one_device(pred, grad_loss, grad_residual)


def _fake(grad_loss, grad_residual, pred, *rest):
    _check(grad_loss, grad_residual, pred, *rest)
    return pred.new_empty(pred.shape)


OP = _op.register(
    "composite_residual_backward(Tensor grad_loss, Tensor grad_residual, Tensor pred, Tensor images, Tensor ids, "
    "Tensor mean, Tensor std, int num_keep, int patch_size, int loss, float alpha, float gamma, float visible_weight, "
    "int average) -> Tensor",
    reference=reference.composite_residual_backward,
    fake=_fake,
)
