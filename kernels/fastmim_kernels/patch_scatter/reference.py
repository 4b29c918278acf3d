"""Patch scatter in plain torch: the definition of correct."""

from torch import Tensor


def patch_scatter(grad, ids, height, width, patch_size, dtype, token_size, columns) -> Tensor:
    """Returns images (B, H, W, C), zero outside the patches of `ids`."""
    (b, k), p, t = ids.shape, patch_size, token_size
    c, n = grad.shape[2] // t**2, p // t
    grid = (height // p, width // p)
    tokens = grad.reshape(b, k // columns, n, columns, n, t, t, c).permute(0, 1, 3, 2, 5, 4, 6, 7)
    values = p * p * c
    patches = grad.new_zeros(b, grid[0] * grid[1], values)
    patches.scatter_(1, ids[..., None].expand(b, k, values), tokens.reshape(b, k, values))
    patches = patches.reshape(b, *grid, p, p, c).transpose(2, 3)
    return patches.reshape(b, height, width, c).to(dtype)
