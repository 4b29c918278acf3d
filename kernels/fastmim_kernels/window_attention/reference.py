"""Window attention in plain torch: the definition of correct. Differentiable, in float64 too."""

import torch
from torch import Tensor

from .windows import cut, join


def attend(qkv, codes, table, num_heads, window, shift, origin, scale) -> tuple[Tensor, ...]:
    """Returns q, k, v (B, windows, heads, T, D), and place in the table and weight of each pair."""
    grid, qkv = codes.shape[1:], qkv.to(torch.promote_types(qkv.dtype, torch.float32))
    q, k, v = cut(qkv, window, shift).unflatten(3, (3, num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
    codes = cut(codes[..., None].long(), window, shift)
    index = codes.transpose(2, 3) - codes + origin
    # gather, since its backward pass is a scatter; the backward pass of indexing sorts all pairs first
    bias = table.to(qkv.dtype).gather(1, index.flatten().expand(num_heads, -1)).unflatten(1, index.shape)
    rows, columns = (torch.arange(n, device=qkv.device) >= n - s for n, s in zip(grid, shift, strict=True))
    area = cut((2 * rows[:, None] + columns)[None, ..., None], window, (0, 0))
    bias = bias.permute(1, 2, 0, 3, 4) - 100.0 * (area != area.transpose(2, 3))[:, :, None]
    return q, k, v, index, (scale * q @ k.mT + bias).softmax(-1)


def window_attention(qkv, codes, table, num_heads, window, shift, origin, scale) -> Tensor:
    """Returns the output of attention, (B, H, W, heads * D)."""
    _, _, v, _, weights = attend(qkv, codes, table, num_heads, window, shift, origin, scale)
    return join((weights @ v).transpose(2, 3).flatten(3), codes.shape[1:], window, shift).to(qkv.dtype)
