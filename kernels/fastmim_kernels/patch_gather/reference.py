"""Patch gather in plain torch: the definition of correct. Differentiable; in float64 when the images are float64."""

import torch
from torch import Tensor


def patch_gather(images, ids, patch_size, mean, std, dtype) -> Tensor:
    """(B, K, p*p*C); only the patches asked for are read."""
    b, h, w, c = images.shape
    p, columns = patch_size, w // patch_size
    blocks = images.unflatten(1, (h // p, p)).unflatten(3, (columns, p)).transpose(2, 3)
    batch = torch.arange(b, device=images.device)[:, None]
    ids = torch.where(ids < 0, h * w, ids)  # indexing would count them from the end
    patches = blocks[batch, ids // columns, ids % columns]
    if images.dtype == torch.uint8:
        # Two tensors: CUDA multiplies by the reciprocal of a Python number, which rounds otherwise.
        patches = (patches.to(mean.dtype) / mean.new_full((), 255.0) - mean) / std
    return patches.flatten(2).to(dtype)
