"""Normalised images with hidden pixels filled, in plain torch: the definition of correct."""

import torch
from torch import Tensor


def mean_fill(images, hidden, mean, std, dtype) -> Tensor:
    """Returns images (B, H, W, C), computed in float32.

    They are computed in float64 if images, or mean and std, are float64.
    """
    pixels = images.to(torch.promote_types(images.dtype, mean.dtype))
    if images.dtype == torch.uint8:
        # A tensor for 255: CUDA multiplies by the reciprocal of a Python number, which rounds differently.
        pixels = (pixels / mean.new_full((), 255.0) - mean) / std
    if hidden is not None:
        height, width = images.shape[1] // hidden.shape[1], images.shape[2] // hidden.shape[2]
        where = hidden.repeat_interleave(height, 1).repeat_interleave(width, 2)[..., None]
        pixels = torch.where(where, pixels.mean(dim=(1, 2), keepdim=True), pixels)
    return pixels.to(dtype)
