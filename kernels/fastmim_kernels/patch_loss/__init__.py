"""Loss between predicted patches and the images they come from, with the target formed inside; gradient in one pass."""

from typing import Literal

import torch
from torch import Tensor

from .. import _check as check
from .. import _op
from ..scale_ import scale_
from . import reference


def patch_loss(
    pred: Tensor,
    images: Tensor,
    rows: Tensor,
    patch_size: int,
    mean: Tensor,
    std: Tensor,
    *,
    norm_pix: bool,
    loss: Literal["l1", "l2"],
) -> Tensor:
    """Mean absolute or squared error between predicted patches and pixels.

    MAE (arXiv:2111.06377), section 3, "Reconstruction target", and SimMIM (arXiv:2111.09886), section 3.5:
        t = patch;  with norm_pix  t = (t - mean_P(t)) / sqrt(var_P(t) + 1e-6),  var_P unbiased, over all P values
        loss = sum_n sum_i |pred_ni - t_ni| / (N P)      or      sum_n sum_i (pred_ni - t_ni)^2 / (N P)
    in float32. Only the patches named by `rows` enter, so leave the visible ones out. N = 0 gives 0. The gradient, with
    respect to `pred` alone, is formed together with the loss and multiplied in place by the incoming one, which costs
    nothing when that is 1: a second backward through the same graph therefore raises instead of being wrong. Its L1
    form is 0 where pred equals the target.

    Args:
        pred: (N, P) float32, bfloat16 or float16, P = patch_size**2 * C in order (row, column, channel).
        images: (B, H, W, C), uint8, which stands for (x / 255 - mean) / std, or floating and already normalised.
        rows: (N,) int64, the patch each row of `pred` predicts: b * L + l, l row-major on the (H/p, W/p) grid.
        mean, std: (C,) float32, on the 0..1 scale; used for uint8 images only.
    Returns: () float32.
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        IndexError, RuntimeError: a row is out of range, CPU only (reference, C++). On a GPU that check would make the
            host wait on every step: there it is the caller's duty.
    """
    if loss not in ("l1", "l2"):
        raise ValueError(f'loss: expected "l1" or "l2", got {loss!r}')
    _check(pred, images, rows, patch_size, mean, std, norm_pix)
    args = (pred, images, rows, patch_size, mean, std, norm_pix, loss == "l1")
    if _op.using_reference():
        return reference.patch_loss(*args)
    return OP.overload(*args, _grad_scale(pred))[0]


def _check(pred, images, rows, patch_size, mean, std, norm_pix) -> None:
    if pred.ndim != 2 or images.ndim != 4 or rows.ndim != 1:
        raise ValueError(
            "expected pred (N, P), images (B, H, W, C) and rows (N,), "
            f"got {tuple(pred.shape)}, {tuple(images.shape)} and {tuple(rows.shape)}"
        )
    _, height, width, channels = images.shape
    check.patches_fit(height, width, patch_size)
    values = patch_size**2 * channels
    if pred.shape[1] != values or rows.shape[0] != pred.shape[0]:
        raise ValueError(
            f"expected pred ({rows.shape[0]}, {values}) for {rows.shape[0]} rows and patches of "
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


def _grad_scale(pred: Tensor) -> float | None:
    """Multiplies the gradient of the summed loss in the forward pass; None = no gradient wanted."""
    if not (torch.is_grad_enabled() and pred.requires_grad):
        return None
    # float16 has no exponents for 1 / (N P): there it is left to backward, which has the loss scale to go with it.
    return 1.0 if pred.dtype == torch.float16 else 1 / max(pred.numel(), 1)


def _default(pred, images, rows, patch_size, mean, std, norm_pix, l1, grad_scale):
    d = reference.residual(pred, images, rows, patch_size, mean, std, norm_pix)
    value = (d.abs() if l1 else d.square()).sum() / max(d.numel(), 1)
    if grad_scale is None:
        return value, pred.new_empty(0)
    return value, ((d.sign() if l1 else 2 * d) * grad_scale).to(pred.dtype)


def _fake(pred, images, rows, patch_size, mean, std, norm_pix, l1, grad_scale):
    _check(pred, images, rows, patch_size, mean, std, norm_pix)
    grad = pred.new_empty(pred.shape if grad_scale is not None else 0)
    return pred.new_empty((), dtype=torch.float32), grad


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # zeros for the second output would be a pass of their own


def _backward(ctx, grad_loss, _):
    (grad,) = ctx.saved_tensors
    factor = grad_loss / max(grad.numel(), 1) if grad.dtype == torch.float16 else grad_loss  # see _grad_scale
    if type(grad) is not Tensor:  # being traced: the graph may hand the saved gradient out, so it must not change
        return grad * factor, *[None] * 8
    scale_(grad, factor)
    return grad, *[None] * 8


OP = _op.register(
    "patch_loss(Tensor pred, Tensor images, Tensor rows, int patch_size, Tensor mean, Tensor std, bool norm_pix, "
    "bool l1, float? grad_scale) -> (Tensor loss, Tensor grad)",
    reference=_default,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)
