"""Loss between predicted patches and the pixels of their images.

One pass forms target, loss and gradient.
"""

from typing import Literal

import torch
from torch import Tensor

from .. import _op
from .._check import FLOATS, check_channel_constants, check_one_device, check_patches
from .._element_loss import element_loss, element_loss_index, element_loss_slope
from ..scale_gradient import scale_gradient
from . import reference

LAYOUTS = ("row_column_channel", "channel_row_column")


def patch_loss(
    pred: Tensor,
    images: Tensor,
    rows: Tensor,
    patch_size: int,
    mean: Tensor,
    std: Tensor,
    *,
    norm_pix: bool,
    loss: Literal["l1", "l2", "focal_l1"],
    alpha: float = 0.2,
    gamma: float = 1.0,
    layout: Literal["row_column_channel", "channel_row_column"] = "row_column_channel",
) -> Tensor:
    """Returns the mean loss of predicted patches against pixels.

    MAE (arXiv:2111.06377), section 3, "Reconstruction target"; SimMIM (arXiv:2111.09886), section 3.5; for focal L1,
    openmixup `regression_loss.py`:
        t = patch;  with norm_pix  t = (t - mean_P(t)) / sqrt(var_P(t) + 1e-6),  var_P unbiased, over all P values
        loss = sum_n sum_i f(pred_ni - t_ni) / (N P),  f(d) = |d|,  d^2  or  |d| tanh(alpha |d| / 2)^gamma
    in float32. Only the patches named by `rows` count, so leave visible patches out. N = 0 gives 0.

    Only `pred` has a gradient. The gradient is formed together with the loss, and multiplied in place by the incoming
    gradient; the product is free if the incoming gradient is 1. A second backward pass through the same graph would
    multiply twice, so it raises an error. The gradient of L1 is 0 where `pred` equals the target.

    Args:
        pred: float32, bfloat16 or float16, with P = patch_size**2 * C. Either (N, P), the patches of `rows`; or (B, L,
            P), every patch, of which the patches of `rows` are read. A (B, L, P) tensor may be strided: the view
            `features.flatten(2).transpose(1, 2)` of a (B, P, H/p, W/p) map, the input of a pixel shuffle, is not
            copied, nor is its gradient.
        images: (B, H, W, C). uint8 values x stand for (x / 255 - mean) / std; floating values are normalised already.
        rows: (N,) int64, the patches that count: b * L + l, with l row-major on the (H/p, W/p) grid. If `pred` has
            every patch, each row may occur only once.
        patch_size: p, pixels along a side of a patch.
        mean: (C,) float32, on the 0..1 scale. For uint8 images only.
        std: (C,) float32, on the 0..1 scale. For uint8 images only.
        norm_pix: True = the target is normalised per patch.
        loss: name of the function f above: "l1", "l2" or "focal_l1".
        alpha: slope of the weight in focal L1, above 0.
        gamma: power of the weight in focal L1, 0 or at least 1.
        layout: order of the P values. "channel_row_column" is the order of a pixel shuffle.
    Returns: () float32.
    Raises:
        ValueError: shapes, dtypes, devices or numbers do not fit together.
        IndexError: a row is out of range, in the reference on a CPU only.
        RuntimeError: a row is out of range or occurs twice, in C++ only. On a GPU the check would make the host wait in
            every step; there the caller has to pass valid rows.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {LAYOUTS}, got {layout!r}")
    numbers = (norm_pix, element_loss_index(loss, alpha, gamma), alpha, gamma, layout == "channel_row_column")
    args = (pred, images, rows, patch_size, mean, std, *numbers)
    _check(*args)
    if _op.using_reference():
        return reference.patch_loss(*args)
    return OP.overload(*args, _grad_scale(pred, rows))[0]


def _check(pred, images, rows, patch_size, mean, std, norm_pix, loss, alpha, gamma, channels_first) -> None:
    if pred.ndim not in (2, 3) or images.ndim != 4 or rows.ndim != 1:
        raise ValueError(
            "expected pred (N, P) or (B, L, P), images (B, H, W, C) and rows (N,), "
            f"got {tuple(pred.shape)}, {tuple(images.shape)} and {tuple(rows.shape)}"
        )
    batch, height, width, channels = images.shape
    check_patches(height, width, patch_size)
    values = patch_size**2 * channels
    every = (batch, height // patch_size * (width // patch_size), values)
    if pred.shape not in ((rows.shape[0], values), every):
        raise ValueError(
            f"expected pred ({rows.shape[0]}, {values}) or {every} for {rows.shape[0]} rows and patches of "
            f"{patch_size} x {patch_size} x {channels}, got {tuple(pred.shape)}"
        )
    if norm_pix and values < 2:
        raise ValueError("norm_pix needs patches of at least 2 values: one value has no variance")
    if pred.dtype not in FLOATS or images.dtype not in (torch.uint8, *FLOATS) or rows.dtype != torch.int64:
        raise ValueError(
            "expected pred float32, bfloat16 or float16, images the same or uint8, rows int64, "
            f"got {pred.dtype}, {images.dtype} and {rows.dtype}"
        )
    check_channel_constants(mean, std, channels)
    check_one_device(pred, images, rows, mean, std)


def _count(pred: Tensor, rows: Tensor) -> int:
    """Returns the number of values by which the summed loss is divided."""
    return max(rows.shape[0] * pred.shape[-1], 1)


def _grad_scale(pred: Tensor, rows: Tensor) -> float | None:
    """Returns the factor on the gradient of the summed loss in the forward pass.

    None = no gradient is needed.
    """
    if not (torch.is_grad_enabled() and pred.requires_grad):
        return None
    # 1 / (N P) underflows in float16, so backward applies it there, together with the loss scale.
    return 1.0 if pred.dtype == torch.float16 else 1 / _count(pred, rows)


def empty_grad(pred: Tensor, grad_scale: float | None) -> Tensor:
    """Returns memory for the gradient.

    If `pred` has every patch, the gradient has the same strides, and is zero at predictions that are not read.
    """
    if grad_scale is None:
        return pred.new_empty(0)
    return torch.zeros_like(pred) if pred.ndim == 3 else pred.new_empty(pred.shape)


def _default(pred, images, rows, patch_size, mean, std, norm_pix, loss, alpha, gamma, channels_first, grad_scale):
    d = reference.residual(pred, images, rows, patch_size, mean, std, norm_pix, channels_first)
    value = element_loss(d, loss, alpha, gamma).sum() / max(d.numel(), 1)
    grad = empty_grad(pred, grad_scale)
    if grad_scale is not None:
        slope = (element_loss_slope(d, loss, alpha, gamma) * grad_scale).to(pred.dtype)
        grad[(rows // pred.shape[1], rows % pred.shape[1]) if pred.ndim == 3 else ...] = slope
    return value, grad


def _fake(pred, images, rows, patch_size, mean, std, norm_pix, loss, alpha, gamma, channels_first, grad_scale):
    _check(pred, images, rows, patch_size, mean, std, norm_pix, loss, alpha, gamma, channels_first)
    return pred.new_empty((), dtype=torch.float32), empty_grad(pred, grad_scale)


def _setup_context(ctx, inputs, output):
    ctx.count = _count(inputs[0], inputs[2])
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # zeros for the second output would cost a pass


def _backward(ctx, grad_loss, _):
    (grad,) = ctx.saved_tensors
    factor = grad_loss / ctx.count if grad.dtype == torch.float16 else grad_loss  # see _grad_scale
    if type(grad) is not Tensor:  # traced: the graph may return the saved gradient, which must not change
        return grad * factor, *[None] * 11
    scale_gradient(grad.as_strided((grad.numel(),), (1,)), factor)  # dense in any order of strides
    return grad, *[None] * 11


OP = _op.register(
    "patch_loss(Tensor pred, Tensor images, Tensor rows, int patch_size, Tensor mean, Tensor std, bool norm_pix, "
    "int loss, float alpha, float gamma, bool channels_first, float? grad_scale) -> (Tensor loss, Tensor grad)",
    reference=_default,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)
