"""A map of tokens, rolled and cut into windows, and put together again."""

from torch import Tensor


def cut(x: Tensor, window, shift) -> Tensor:
    """(B, H, W, C), rolled by -shift, to (B, windows, T, C)."""
    x = x.roll((-shift[0], -shift[1]), (1, 2)).unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join(x: Tensor, grid, window, shift) -> Tensor:
    """Inverse of `cut`."""
    x = x.unflatten(2, tuple(window)).unflatten(1, (grid[0] // window[0], -1)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2).roll(tuple(shift), (1, 2))
