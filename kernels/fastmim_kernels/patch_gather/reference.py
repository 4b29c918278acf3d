"""Patch gather in plain torch: the definition of correct.

Differentiable; in float64 if the images are float64.
"""

import torch
from torch import Tensor


def patch_gather(images, ids, patch_size, mean, std, dtype, token_size, columns) -> Tensor:
    """Returns tokens (B, N, t*t*C). Reads only the patches of `ids`."""
    b, h, w, c = images.shape
    p, t, k, grid_columns = patch_size, token_size, ids.shape[1], w // patch_size
    blocks = images.unflatten(1, (h // p, p)).unflatten(3, (grid_columns, p)).transpose(2, 3)
    batch = torch.arange(b, device=images.device)[:, None]
    ids = torch.where(ids < 0, h * w, ids)  # indexing would count negative ids from the end
    patches = blocks[batch, ids // grid_columns, ids % grid_columns]
    if images.dtype == torch.uint8:
        # A tensor for 255: CUDA multiplies by the reciprocal of a Python number, which rounds differently.
        patches = (patches.to(mean.dtype) / mean.new_full((), 255.0) - mean) / std
    tokens = patches.reshape(b, k // columns, columns, p // t, t, p // t, t, c).permute(0, 1, 3, 2, 5, 4, 6, 7)
    return tokens.reshape(b, k * (p // t) ** 2, t * t * c).to(dtype)
