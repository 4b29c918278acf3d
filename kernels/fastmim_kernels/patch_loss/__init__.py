"""Loss between predicted patches and the images they come from, with the target formed inside; gradient in one pass."""

from typing import Literal

import torch
from torch import Tensor

from .. import _check as check
from .. import _op
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
    """Mean loss of predicted patches against pixels.

    MAE (arXiv:2111.06377), section 3, "Reconstruction target", SimMIM (arXiv:2111.09886), section 3.5, and, for focal
    L1, openmixup `regression_loss.py`:
        t = patch;  with norm_pix  t = (t - mean_P(t)) / sqrt(var_P(t) + 1e-6),  var_P unbiased, over all P values
        loss = sum_n sum_i f(pred_ni - t_ni) / (N P),  f(d) = |d|,  d^2  or  |d| tanh(alpha |d| / 2)^gamma
    in float32. Only the patches named by `rows` enter, so leave the visible ones out. N = 0 gives 0. The gradient, with
    respect to `pred` alone, is formed together with the loss and multiplied in place by the incoming one, which costs
    nothing when that is 1: a second backward through the same graph therefore raises instead of being wrong. Its L1
    form is 0 where pred equals the target.

    Args:
        pred: float32, bfloat16 or float16, P = patch_size**2 * C. (N, P): of the patches of `rows`. (B, L, P): of every
            patch, of which those of `rows` are read; it may be strided, so
            `features.flatten(2).transpose(1, 2)` of the (B, P, H/p, W/p) map that others give to a pixel shuffle is
            read, and its gradient written, where it lies.
        images: (B, H, W, C), uint8, which stands for (x / 255 - mean) / std, or floating and already normalised.
        rows: (N,) int64, the patches that enter: b * L + l, l row-major on the (H/p, W/p) grid; each at most once if
            `pred` is of every patch.
        mean, std: (C,) float32, on the 0..1 scale; used for uint8 images only.
        alpha, gamma: of focal L1; gamma is 0 or at least 1.
        layout: order of the P values; "channel_row_column" is what a pixel shuffle reads.
    Returns: () float32.
    Raises:
        ValueError: shapes, dtypes, devices or numbers do not fit together.
        IndexError, RuntimeError: a row is out of range, CPU only (reference, C++), or there twice (C++). On a GPU that
            check would make the host wait on every step: there it is the caller's duty.
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
    check.patches_fit(height, width, patch_size)
    values = patch_size**2 * channels
    every = (batch, height // patch_size * (width // patch_size), values)
    if pred.shape not in ((rows.shape[0], values), every):
        raise ValueError(
            f"expected pred ({rows.shape[0]}, {values}) or {every} for {rows.shape[0]} rows and patches of "
            f"{patch_size} x {patch_size} x {channels}, got {tuple(pred.shape)}"
        )
    if norm_pix and values < 2:
        raise ValueError("norm_pix needs patches of at least 2 values: one value has no variance")
    if pred.dtype not in check.FLOATS or images.dtype not in (torch.uint8, *check.FLOATS) or rows.dtype != torch.int64:
        raise ValueError(
            "expected pred float32, bfloat16 or float16, images the same or uint8, rows int64, "
            f"got {pred.dtype}, {images.dtype} and {rows.dtype}"
        )
    check.channel_constants(mean, std, channels)
    check.one_device(pred, images, rows, mean, std)


def _count(pred: Tensor, rows: Tensor) -> int:
    """Returns the divisor of the sum of losses."""
    return max(rows.shape[0] * pred.shape[-1], 1)


def _grad_scale(pred: Tensor, rows: Tensor) -> float | None:
    """Multiplies the gradient of the summed loss in the forward pass; None = no gradient wanted."""
    if not (torch.is_grad_enabled() and pred.requires_grad):
        return None
    # float16 has no exponents for 1 / (N P): there it is left to backward, which has the loss scale to go with it.
    return 1.0 if pred.dtype == torch.float16 else 1 / _count(pred, rows)


def empty_grad(pred: Tensor, grad_scale: float | None) -> Tensor:
    """Returns memory for the gradient, strided as the predictions of every patch; unread predictions get 0."""
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
    ctx.set_materialize_grads(False)  # zeros for the second output would be a pass of their own


def _backward(ctx, grad_loss, _):
    (grad,) = ctx.saved_tensors
    factor = grad_loss / ctx.count if grad.dtype == torch.float16 else grad_loss  # see _grad_scale
    if type(grad) is not Tensor:  # being traced: the graph may hand the saved gradient out, so it must not change
        return grad * factor, *[None] * 11
    scale_gradient(grad.as_strided((grad.numel(),), (1,)), factor)  # dense, whatever the order of its strides
    return grad, *[None] * 11


OP = _op.register(
    "patch_loss(Tensor pred, Tensor images, Tensor rows, int patch_size, Tensor mean, Tensor std, bool norm_pix, "
    "int loss, float alpha, float gamma, bool channels_first, float? grad_scale) -> (Tensor loss, Tensor grad)",
    reference=_default,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)
