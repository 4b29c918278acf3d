"""A2MIM's residual images and spatial loss from predicted patches; the target is formed inside."""

from typing import Literal

import torch
from torch import Tensor

from .. import _op
from .._check import check_one_device, check_predictions
from .._element_loss import element_loss_index
from ..composite_residual_backward import composite_residual_backward
from . import reference

_SHARES = {"mixed": 0.5, "target": 0.0, "prediction": 1.0, "mean": 0.0}


def composite_residual(
    pred: Tensor,
    images: Tensor,
    ids: Tensor,
    num_keep: int,
    patch_size: int,
    mean: Tensor,
    std: Tensor,
    *,
    loss: Literal["l1", "l2", "focal_l1"],
    alpha: float = 0.2,
    gamma: float = 1.0,
    visible: Literal["mixed", "target", "prediction", "mean"] = "mixed",
    visible_weight: float = 0.0,
    average: int = 1,
) -> tuple[Tensor, Tensor]:
    """Returns the spatial loss of hidden pixels, and the residual images for a Fourier loss.

    A2MIM (arXiv:2205.13943), openmixup `mim_head.py`. With d = prediction - target and u = visible_weight:
        loss = mean over hidden values of  |d|,  d^2  or  |d| tanh(alpha |d| / 2)^gamma
        residual = d where hidden,  u d + (1 - u) v where visible
    where v carries no gradient and is d / 2 ("mixed"), 0 ("target"), d ("prediction"), or the image's mean - target
    ("mean").

    Residual images are averaged over groups of images. The DFT is linear, so a loss of the mean spectrum of n images is
    a loss of their mean residual. So no tensor of the size of the batch is written.

    Sums are in float32, always in the same order. Only `pred` has a gradient, which needs a second read of the inputs.
    The gradient of L1 is 0 where the prediction equals the target.

    Args:
        pred: (B, L, P) float32, bfloat16 or float16, with P = patch_size**2 * C in the order (row, column, channel).
        images: (B, H, W, C). uint8 values x stand for (x / 255 - mean) / std; floating values are normalised already.
        ids: (B, L) int64, in every row a permutation of the patches: the patch of each row of `pred`.
        num_keep: number of visible patches, which are the first of `ids`.
        patch_size: pixels along a side of a patch.
        mean: (C,) float32, on the 0..1 scale. For uint8 images only.
        std: (C,) float32, on the 0..1 scale. For uint8 images only.
        loss: formula of the spatial loss: "l1", "l2" or "focal_l1".
        alpha: slope of the weight in focal L1, above 0.
        gamma: power of the weight in focal L1, 0 or at least 1.
        visible: name of the value v above.
        visible_weight: the share u above, from 0 to 1.
        average: consecutive images per group; divides B.
    Returns: () float32; (B / average, H, W, C) float32.
    Raises:
        ValueError: shapes, dtypes, devices or numbers do not fit together.
        RuntimeError: a row of `ids` is no permutation, on a CPU only. On a GPU the check would make the host wait in
            every step; there the caller has to pass valid indices.
    """
    element_loss = element_loss_index(loss, alpha, gamma)
    if visible not in _SHARES or not 0 <= visible_weight <= 1:
        raise ValueError(
            f"expected visible of {tuple(_SHARES)} and visible_weight from 0 to 1, got {visible!r} and {visible_weight}"
        )
    value = visible_weight + (1 - visible_weight) * _SHARES[visible]
    tensors, fill = (pred, images, ids, num_keep, patch_size, mean, std), None
    numbers = (element_loss, alpha, gamma, value, visible_weight, average)
    _check(*tensors, fill, *numbers)
    if visible == "mean":
        fill = images.mean(dim=(1, 2), dtype=torch.float32)
        fill = (fill / 255 - mean) / std if images.dtype == torch.uint8 else fill
    args = (*tensors, fill, *numbers)
    return reference.composite_residual(*args) if _op.using_reference() else OP.overload(*args)


def _check(
    pred, images, ids, num_keep, patch_size, mean, std, fill, loss, alpha, gamma, visible_value, visible_weight, average
) -> None:
    check_predictions(pred, images, ids, num_keep, patch_size, mean, std)
    if average < 1 or images.shape[0] % average:
        raise ValueError(f"average: expected a divisor of the batch of {images.shape[0]}, got {average}")
    if fill is not None:
        check_one_device(images, fill)


def _fake(pred, images, *rest):
    _check(pred, images, *rest)
    shape = (images.shape[0] // rest[-1], *images.shape[1:])
    return pred.new_empty((), dtype=torch.float32), pred.new_empty(shape, dtype=torch.float32)


def _setup_context(ctx, inputs, output):
    pred, images, ids, num_keep, patch_size, mean, std, _, loss, alpha, gamma, _, visible_weight, average = inputs
    ctx.save_for_backward(pred, images, ids, mean, std)
    ctx.numbers = (num_keep, patch_size, loss, alpha, gamma, visible_weight, average)


def _backward(ctx, grad_loss, grad_residual):
    grad = composite_residual_backward(grad_loss, grad_residual, *ctx.saved_tensors, *ctx.numbers)
    return grad, *[None] * 13


OP = _op.register(
    "composite_residual(Tensor pred, Tensor images, Tensor ids, int num_keep, int patch_size, Tensor mean, Tensor std, "
    "Tensor? fill, int loss, float alpha, float gamma, float visible_value, float visible_weight, int average) "
    "-> (Tensor loss, Tensor residual)",
    reference=reference.composite_residual,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)
