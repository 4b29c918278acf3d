"""In-place product with a factor on the device, for ops that form their gradient in the forward pass."""

import torch
from torch import Tensor

from .. import _op
from . import reference


def scale_gradient(x: Tensor, factor: Tensor) -> None:
    """Multiplies x by a factor in place, in float32.

    If the factor is 1, x stays unchanged. The host never waits for the device.

    Every call raises x's version counter, also with factor 1. If autograd has saved x for a backward pass, a later
    backward pass through x therefore raises an error instead of scaling x twice.

    Args:
        x: any shape, contiguous, float32, bfloat16 or float16.
        factor: () float32 on the same device.
    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    _check(x, factor)
    torch.autograd.graph.increment_version(x)
    OP.overload(x, factor)


def _check(x, factor) -> None:
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16) or not x.is_contiguous():
        raise ValueError(
            f"expected a contiguous float32, bfloat16 or float16 tensor, got {x.dtype}, strides {x.stride()}"
        )
    if factor.shape != () or factor.dtype != torch.float32 or factor.device != x.device:
        raise ValueError(
            f"expected a () float32 factor on {x.device}, got {tuple(factor.shape)} {factor.dtype} on {factor.device}"
        )


OP = _op.register("scale_gradient(Tensor(a!) x, Tensor factor) -> ()", reference=reference.scale_gradient, fake=_check)
