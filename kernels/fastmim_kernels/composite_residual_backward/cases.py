"""Inputs of composite_residual_backward: those of composite_residual."""

from dataclasses import replace

import torch

from ..composite_residual import cases as forward
from ..composite_residual.cases import BENCH, BENCH_DTYPES, CASES, Case
from . import composite_residual_backward, reference

__all__ = ["BENCH", "BENCH_DTYPES", "CASES"]

_VIT_SMALL = Case(batch=2, grid=(1, 2), patch=16, num_keep=1, average=2)
_R50_SMALL = replace(_VIT_SMALL, patch=32, loss="focal_l1")
VARIANTS = {
    "vit_b/16 bf16 l1": (_VIT_SMALL, torch.bfloat16),
    "vit_b/16 fp32 l2": (replace(_VIT_SMALL, loss="l2"), torch.float32),
    "resnet50 bf16 focal l1": (_R50_SMALL, torch.bfloat16),
    "resnet50 fp16 focal l1, power": (replace(_R50_SMALL, gamma=2.0), torch.float16),
}
PER_IMAGE = (1, 2, 3, 4)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.composite_residual_backward`, equal on every device.

    dtype: type of `pred`.
    """
    args = forward.inputs(case, dtype, device, seed)
    pred, images, ids, num_keep, p, mean, std, _, loss, alpha, gamma, _, visible_weight, average = args
    _, h, w, c = images.shape
    grad = torch.randn(case.batch // average, h, w, c, generator=torch.Generator().manual_seed(seed + 1))
    grad_loss = torch.tensor(float(max(pred.numel(), 1)), device=device)
    tensors = (grad_loss, grad.to(device), pred, images, ids, mean, std)
    return *tensors, num_keep, p, loss, alpha, gamma, visible_weight, average


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided.

    Hidden pixels, hidden predictions and the gradient of the residuals are read; the gradient of `pred` is written.
    """
    patches, values = case.grid[0] * case.grid[1], case.patch**2 * case.channels
    read = (patches - case.num_keep) * (case.images.itemsize + dtype.itemsize) + 4 * patches // case.average
    return case.batch * values * (read + patches * dtype.itemsize)


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the gradient of the residuals, and the functions of that gradient that the benchmark runs."""
    grad_loss, grad_residual, *rest = inputs(case, dtype, device)
    return grad_residual, {
        "ours": lambda grad: composite_residual_backward(grad_loss, grad, *rest),
        "reference": lambda grad: reference.composite_residual_backward(grad_loss, grad, *rest),
    }
