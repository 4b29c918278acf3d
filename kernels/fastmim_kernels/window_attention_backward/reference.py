"""Gradients of window attention in plain torch: the definition of correct."""

import torch
from torch import Tensor

from ..window_attention.reference import attend
from ..window_attention.windows import cut, join


def window_attention_backward(
    grad, qkv, codes, table, num_heads, window, shift, origin, scale
) -> tuple[Tensor, Tensor]:
    """Returns the gradient of qkv, in qkv's type, and of table.

    Both are computed in float32, or float64 if qkv is.
    """
    q, k, v, index, weights = attend(qkv, codes, table, num_heads, window, shift, origin, scale)
    grad = cut(grad.to(q.dtype), window, shift).unflatten(3, (num_heads, -1)).transpose(2, 3)
    scores = grad @ v.mT
    scores = weights * (scores - (weights * scores).sum(-1, keepdim=True))
    parts = torch.stack([scale * scores @ k, scale * scores.mT @ q, weights.mT @ grad], dim=2)
    parts = join(parts.movedim(4, 2).flatten(3), codes.shape[1:], window, shift).to(qkv.dtype)
    places = index.expand(len(qkv), -1, -1, -1).flatten().expand(num_heads, -1)
    pairs = scores.permute(2, 0, 1, 3, 4).flatten(1)
    return parts, torch.zeros_like(table, dtype=q.dtype).scatter_add(1, places, pairs)
