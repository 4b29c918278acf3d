"""Maps of tokens cut into shifted windows and joined again."""

from torch import Tensor


def cut(x: Tensor, window, shift) -> Tensor:
    """Rolls a map (B, H, W, C) by -shift and cuts it into windows (B, windows, T, C)."""
    x = x.roll((-shift[0], -shift[1]), (1, 2)).unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join(x: Tensor, grid, window, shift) -> Tensor:
    """Joins windows to a map. The inverse of `cut`."""
    x = x.unflatten(2, tuple(window)).unflatten(1, (grid[0] // window[0], -1)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2).roll(tuple(shift), (1, 2))
