"""Uniform masks in plain torch: the definition of correct."""

import torch
from torch import Tensor

from ..philox.reference import philox


def uniform_mask(seed, stream, secondary_stream, ids, rows, columns, kept, stratified) -> tuple[Tensor, Tensor]:
    across, num_keep = columns // 2, rows * columns // 4
    if stratified:
        each = -(-num_keep // 2)
        corner = philox(seed, stream, ids, 4 * each).argsort(dim=1, stable=True)[:, :num_keep] // each
    else:
        corner = philox(seed, stream, ids, num_keep) >> 30
    block = torch.arange(num_keep, device=ids.device)
    keep = (2 * (block // across) + corner // 2) * columns + 2 * (block % across) + corner % 2
    hidden = torch.ones(len(ids), rows * columns, dtype=torch.uint8, device=ids.device).scatter_(1, keep, 0)
    order = torch.cat([keep, hidden.argsort(dim=1, descending=True, stable=True)[:, : 3 * num_keep]], dim=1)
    replaced = philox(seed, secondary_stream, ids, num_keep).argsort(dim=1, stable=True)[:, kept:]
    return order, torch.zeros_like(keep, dtype=torch.bool).scatter_(1, replaced, True)
