"""Patch scatter in plain torch: the definition of correct."""

from torch import Tensor


def patch_scatter(grad, ids, height, width, patch_size, dtype) -> Tensor:
    """(B, H, W, C), zero where no patch is put."""
    b, k, values = grad.shape
    p, rows, columns = patch_size, height // patch_size, width // patch_size
    patches = grad.new_zeros(b, rows * columns, values)
    patches.scatter_(1, ids[..., None].expand(b, k, values), grad)
    patches = patches.reshape(b, rows, columns, p, p, values // p**2).transpose(2, 3)
    return patches.reshape(b, height, width, values // p**2).to(dtype)
