"""Position embeddings and relative-bias tables for another image or window size.

The papers' fine-tuning code resizes these learned tables in the same way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.encoders.base import EncoderModule


def resize_table(name: str, table: Tensor, shape: torch.Size, encoder: EncoderModule) -> Tensor | None:
    """Resizes a position embedding or relative-bias table of an encoder.

    Args:
        name: name of the table's parameter.
        table: the table, (1, positions, D) or (offsets, heads).
        shape: shape of the resized table.
        encoder: encoder that takes the resized table.

    Returns:
        The resized table, or None if `name` is no such table or this table cannot be resized.
    """
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
    except ValueError:  # the table does not belong to a square grid
        return None
    return None


def resize_position_embedding(table: Tensor, grid: tuple[int, int], num_prefix_tokens: int) -> Tensor:
    """Resizes the position embedding of a square grid to another grid, keeping rows of prefix tokens.

    The resize is bicubic, with half-pixel centres and without antialiasing (facebookresearch/mae, util/pos_embed.py
    `interpolate_pos_embed`).

    Args:
        table: (1, prefix + S * S, D).
        grid: rows H and columns W of the new grid.
        num_prefix_tokens: number of class tokens in front.

    Returns:
        (1, prefix + H * W, D) in the same dtype.

    Raises:
        ValueError: the rows after the prefix are not a square number.
    """
    side = math.isqrt(max(table.shape[1] - num_prefix_tokens, 0))
    if side == 0 or side**2 + num_prefix_tokens != table.shape[1]:
        raise ValueError(f"expected {num_prefix_tokens} + a square number of positions, got {table.shape[1]}")
    prefix, cells = table[:, :num_prefix_tokens], table[:, num_prefix_tokens:]
    cells = cells.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    cells = F.interpolate(cells, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([prefix, cells.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def resize_relative_bias(table: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes the relative-position biases of a square window to another window.

    Source: microsoft/SimMIM, utils.py. The old offsets are spread over the new offsets as a geometric progression. For
    each head, a cubic spline goes through the old biases there.

    The official code uses `scipy.interpolate.interp2d(kind="cubic")`, which SciPy 1.14 removed. This spline is
    FITPACK's tensor product of interpolating cubics without the first and last inner knot ("not-a-knot"). The spline
    is constant beyond the outermost offsets.

    Args:
        table: (S * S + extra, heads). `extra` is 3 if the table has rows to, from and between class tokens, else 0.
        size: rows and columns of the new table, (2 * height - 1, 2 * width - 1) of the new window.

    Returns:
        (rows * columns + extra, heads) in the same dtype, with unchanged extra rows.

    Raises:
        ValueError: the rows are not those of a square window.
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
    """Places the old offsets -source..source among the new offsets -target..target.

    The places are 0, 1, 1 + q, 1 + q + q^2, ... on both sides. A bisection finds q between 1.01 and 1.5, to 1e-6, so
    that the last place is about `target`.
    """
    low, q, high = 1.01, 1.255, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q**source) / (1 - q) > target else (q, high)
    positive = (q ** torch.arange(source, dtype=torch.float64)).cumsum(0)
    return torch.cat([-positive.flip(0), torch.zeros(1, dtype=torch.float64), positive])


def _spline(x: Tensor, last: int) -> Tensor:
    """Returns the (2 * last + 1, n) matrix of a not-a-knot cubic spline.

    The matrix maps values at the knots x (n,) to the values of the spline at -last..last.
    """
    n, h = len(x), x.diff()
    # left @ m = right @ values, for the second derivatives m at the knots. The first derivative is continuous at inner
    # knots. The third derivative is continuous at the second knot and at the last but one.
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
