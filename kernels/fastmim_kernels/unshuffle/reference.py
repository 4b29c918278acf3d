"""Token un-shuffle in plain torch: the definition of correct.

Differentiable; in float64 on float64 tensors.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def unshuffle(latent, mask_token, pos_embed, ids, raster) -> Tensor:
    """Returns (B, prefix + L, D): tokens plus positions."""
    prefix = pos_embed.shape[1] - ids.shape[1]
    pos = F.embedding(ids, pos_embed[0, prefix:])
    visible = latent[:, prefix:]
    keep = visible.shape[1]
    patches = torch.cat([visible + pos[:, :keep], mask_token + pos[:, keep:]], dim=1)
    if raster:
        patches = patches.gather(1, ids.argsort(1)[..., None].expand_as(patches))
    return torch.cat([latent[:, :prefix] + pos_embed[:, :prefix], patches], dim=1)
