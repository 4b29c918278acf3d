"""Checks of arguments that several ops share. May import torch only."""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""What kernels compute on; integers aside."""


def one_device(*tensors: Tensor) -> None:
    """
    Raises:
        ValueError: the tensors are on several devices.
    """
    devices = {x.device for x in tensors}
    if len(devices) > 1:
        raise ValueError(f"expected all tensors on one device, got {sorted(map(str, devices))}")


def patches_fit(height: int, width: int, patch_size: int) -> None:
    """
    Raises:
        ValueError: the images cannot be cut into whole patches.
    """
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"images of {height} x {width} cannot be cut into patches of {patch_size}; resize or crop them"
        )


def channel_constants(mean: Tensor, std: Tensor, channels: int) -> None:
    """
    Raises:
        ValueError: mean or std is not (C,) float32, or wants a gradient, which no op gives.
    """
    for name, value in (("mean", mean), ("std", std)):
        if value.shape != (channels,) or value.dtype != torch.float32:
            raise ValueError(f"{name}: expected ({channels},) float32, got {tuple(value.shape)} {value.dtype}")
        if value.requires_grad:
            raise ValueError(f"{name} is a constant and gets no gradient; detach it")


def warps(block: int) -> int:
    """Warps of a Triton program on `block` values: about 8 values a thread, so that they stay in registers."""
    return min(max(block // 256, 1), 16)
