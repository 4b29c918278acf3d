"""Learned tables for another image or window size, as the papers' fine-tuning does it. May import torch only."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def resize_table(name: str, table: Tensor, shape: torch.Size, encoder: nn.Module) -> Tensor | None:
    """A position embedding or relative-bias table of an encoder in another shape; None if `name` is of neither, or it
    cannot be resized."""
    kind, (rows, columns) = name.rpartition(".")[2], encoder.grid
    if table.ndim != len(shape) or table.shape[-1] != shape[-1]:
        return None
    try:
        if kind == "pos_embed" and len(shape) == 3:
            prefix = encoder.num_prefix_tokens
            cells = shape[1] - prefix
            height = math.isqrt(cells * rows // columns)
            if height and height * (cells // height) == cells:
                return resize_position_embedding(table, (height, cells // height), prefix)
        if kind == "relative_position_bias_table" and len(shape) == 2:
            offsets = shape[0] - (0 if shape[0] % 2 else 3)
            side = math.isqrt(offsets)
            for size in ((side, side), (2 * rows - 1, 2 * columns - 1)):
                if size[0] * size[1] == offsets:
                    return resize_relative_bias(table, size)
    except ValueError:  # the table is of no square grid
        return None
    return None


def resize_position_embedding(table: Tensor, grid: tuple[int, int], num_prefix_tokens: int) -> Tensor:
    """Position embeddings of a square grid for another grid: bicubic, the prefix rows as they are.

    facebookresearch/mae, util/pos_embed.py, `interpolate_pos_embed`: half-pixel centres, no antialiasing.

    Args:
        table: (1, prefix + S * S, D).
    Returns: (1, prefix + H * W, D) in the same dtype.
    Raises:
        ValueError: the rows after the prefix are no square grid.
    """
    side = math.isqrt(max(table.shape[1] - num_prefix_tokens, 0))
    if side == 0 or side**2 + num_prefix_tokens != table.shape[1]:
        raise ValueError(f"expected {num_prefix_tokens} + a square number of positions, got {table.shape[1]}")
    prefix, cells = table[:, :num_prefix_tokens], table[:, num_prefix_tokens:]
    cells = cells.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    cells = F.interpolate(cells, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([prefix, cells.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def resize_relative_bias(table: Tensor, size: tuple[int, int]) -> Tensor:
    """Relative-position biases of a square window for another window: the old offsets are spread as a geometric
    progression over the new ones, with a cubic spline through them per head (microsoft/SimMIM, utils.py).

    The spline is the one that the official `scipy.interpolate.interp2d(kind="cubic")` meant (SciPy removed it in 1.14):
    FITPACK's tensor product of interpolating cubics whose first and last inner knots are left out ("not-a-knot"),
    constant beyond the outermost offsets.

    Args:
        table: (S * S + extra, heads); 3 extra rows (to, from and between class tokens) where S * S + 3 rows, else none.
        size: rows and columns of the new table: (2 * height - 1, 2 * width - 1) of the new window.
    Returns: (rows * columns + extra, heads) in the same dtype; the extra rows as they are.
    Raises:
        ValueError: the rows are no square window's.
    """
    extra = 0 if len(table) % 2 else 3  # a window has an odd number of offsets
    side = math.isqrt(max(len(table) - extra, 0))
    if side**2 + extra != len(table) or side < 5:
        raise ValueError(f"expected the (2w-1)^2 offsets of a square window of at least 3, got {len(table)} rows")
    offsets = table[: side**2].double().reshape(side, side, -1)
    same = torch.eye(side, dtype=offsets.dtype)
    rows, columns = (same if n == side else _spline(_spread(side // 2, n // 2), n // 2) for n in size)
    new = torch.einsum("ri,cj,ijh->rch", rows, columns, offsets).flatten(0, 1)
    return torch.cat([new.to(table.dtype), table[side**2 :]])


def _spread(source: int, target: int) -> Tensor:
    """Places the old offsets -source..source among the new ones -target..target: 0, 1, 1 + q, 1 + q + q^2, ...

    q is from 1.01 to 1.5, so that the last offset is about `target` (bisection to 1e-6).
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q**source) / (1 - q) > target else (q, high)
    positive = (q ** torch.arange(source, dtype=torch.float64)).cumsum(0)
    return torch.cat([-positive.flip(0), torch.zeros(1, dtype=torch.float64), positive])


def _spline(x: Tensor, last: int) -> Tensor:
    """(2 * last + 1, n) matrix: values at the knots x (n,) to those of their not-a-knot cubic spline at -last..last."""
    n, h = len(x), x.diff()
    # Second derivatives m at the knots: continuity of the first at inner knots, of the third at the second and the last
    # but one: left @ m = right @ values.
    left, right = x.new_zeros(n, n), x.new_zeros(n, n)
    for i in range(1, n - 1):
        left[i, i - 1 : i + 2] = torch.stack([h[i - 1], 2 * (h[i - 1] + h[i]), h[i]])
        right[i, i - 1 : i + 2] = 6 * torch.stack([1 / h[i - 1], -1 / h[i - 1] - 1 / h[i], 1 / h[i]])
    left[0, :3] = torch.stack([h[1], -h[0] - h[1], h[0]])
    left[-1, -3:] = torch.stack([h[-1], -h[-2] - h[-1], h[-2]])
    second = torch.linalg.solve(left, right)

    at = torch.arange(-last, last + 1, dtype=x.dtype).clamp(x[0], x[-1])
    k = torch.searchsorted(x, at, right=True).clamp(1, n - 1) - 1
    b = (at - x[k]) / h[k]
    a, square, values = 1 - b, (h[k] ** 2)[:, None] / 6, torch.eye(n, dtype=x.dtype)
    a, b = a[:, None], b[:, None]
    curves = (a**3 - a) * second[k] + (b**3 - b) * second[k + 1]
    return a * values[k] + b * values[k + 1] + curves * square
