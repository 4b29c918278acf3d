"""Random masks in plain torch: the definition of correct."""

import torch
from torch import Tensor

from ..philox import reference


def random_mask(seed: int, stream: int, ids: Tensor, num_patches: int, num_keep: int, raster: bool) -> Tensor:
    order = reference.philox(seed, stream, ids, num_patches).argsort(dim=1, stable=True)
    if not raster:
        return order
    parts = order.split([num_keep, num_patches - num_keep], dim=1)
    return torch.cat([part.sort(dim=1).values for part in parts], dim=1)
