"""Gradients of unshuffle in plain torch: the definition of correct."""

import torch
from torch import Tensor


def unshuffle_backward(grad, ids, num_keep, raster, dtype, with_pos) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of latent, of mask_token and of pos_embed.

    Sums are in float32, or in float64 if `grad` is float64.
    """
    prefix = grad.shape[1] - ids.shape[1]
    accumulate = torch.promote_types(grad.dtype, torch.float32)
    first, patches = grad[:, :prefix], grad[:, prefix:]
    index = ids if raster else ids.argsort(1)
    other = patches.gather(1, index[..., None].expand_as(patches))
    arrived, placed = (other, patches) if raster else (patches, other)
    latent = torch.cat([first, arrived[:, :num_keep]], dim=1).to(dtype)
    mask_token = arrived[:, num_keep:].sum((0, 1), dtype=accumulate)[None, None]
    if not with_pos:
        return latent, mask_token, grad.new_empty(0, dtype=accumulate)
    return latent, mask_token, torch.cat([first, placed], dim=1).sum(0, keepdim=True, dtype=accumulate)
