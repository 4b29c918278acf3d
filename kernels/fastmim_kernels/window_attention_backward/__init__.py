"""Gradients of window attention from its arguments; the weights are computed again."""

import torch
from torch import Tensor

from .. import _op
from .._check import FLOATS, check_one_device
from . import reference


def window_attention_backward(
    grad: Tensor,
    qkv: Tensor,
    codes: Tensor,
    table: Tensor,
    num_heads: int,
    window: list[int],
    shift: list[int],
    origin: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of qkv and table in `window_attention`.

    With the weights p and the scores s of `window_attention`, and g = grad:
        ds_ij = p_ij (g_i . v_j - sum_l p_il g_i . v_l),  dtable[h, n] = sum of ds_ij over all pairs n apart,
        dq_i = scale sum_j ds_ij k_j,  dk_j = scale sum_i ds_ij q_i,  dv_j = sum_i p_ij g_i.

    Args:
        grad: (B, H, W, heads * D) float32, bfloat16 or float16.
        qkv: see `window_attention`.
        codes: see `window_attention`.
        table: see `window_attention`.
        num_heads: see `window_attention`.
        window: see `window_attention`.
        shift: see `window_attention`.
        origin: see `window_attention`.
        scale: see `window_attention`.
    Returns: (B, H, W, 3 * heads * D) of qkv's type; (heads, N) float32.
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: two codes are further apart than the table reaches, on a CPU only.
    """
    args = (grad, qkv, codes, table, num_heads, window, shift, origin, scale)
    _check(*args)
    return OP.overload(*args)


def check_arguments(qkv, codes, table, num_heads, window, shift, origin, scale) -> None:
    """Checks the arguments of `window_attention`.

    Raises:
        ValueError: shapes, dtypes, devices or numbers do not fit together.
    """
    if qkv.ndim != 4 or num_heads < 1 or qkv.shape[3] % (3 * num_heads):
        raise ValueError(f"expected qkv (B, H, W, 3 * {num_heads} heads * D), got {tuple(qkv.shape)}")
    batch, *grid = qkv.shape[:3]
    if codes.shape not in ((batch, *grid), (1, *grid)) or table.ndim != 2 or table.shape[0] != num_heads:
        raise ValueError(
            f"expected codes ({batch} or 1, {grid[0]}, {grid[1]}) and table ({num_heads}, N), "
            f"got {tuple(codes.shape)} and {tuple(table.shape)}"
        )
    if len(window) != 2 or len(shift) != 2 or any(w < 1 or n % w for n, w in zip(grid, window, strict=True)):
        raise ValueError(f"window: expected rows and columns that divide a map of {tuple(grid)} tokens, got {window}")
    if any(not 0 <= s < w for s, w in zip(shift, window, strict=True)):
        raise ValueError(f"shift: expected 0 <= shift < window {window}, got {shift}")
    double = qkv.dtype == table.dtype == torch.float64
    if codes.dtype != torch.int32 or not (double or qkv.dtype in FLOATS and table.dtype == torch.float32):
        raise ValueError(
            "expected qkv float32, bfloat16 or float16 and table float32, or both float64, and codes int32, "
            f"got {qkv.dtype}, {table.dtype} and {codes.dtype}"
        )
    if not 0 <= origin < max(table.shape[1], 1):
        raise ValueError(f"origin: expected a place in a table of {table.shape[1]} offsets, got {origin}")
    check_one_device(qkv, codes, table)


def _check(grad, qkv, codes, table, num_heads, window, shift, origin, scale) -> None:
    check_arguments(qkv, codes, table, num_heads, window, shift, origin, scale)
    expected = (*qkv.shape[:3], qkv.shape[3] // 3)
    if grad.shape != expected or grad.dtype not in FLOATS:
        raise ValueError(f"expected grad {expected}, floating, got {tuple(grad.shape)} {grad.dtype}")
    check_one_device(grad, qkv)


def _fake(grad, qkv, codes, table, num_heads, window, shift, origin, scale):
    _check(grad, qkv, codes, table, num_heads, window, shift, origin, scale)
    return torch.empty_like(qkv, memory_format=torch.contiguous_format), torch.empty_like(table)


OP = _op.register(
    "window_attention_backward(Tensor grad, Tensor qkv, Tensor codes, Tensor table, int num_heads, int[] window, "
    "int[] shift, int origin, float scale) -> (Tensor qkv_grad, Tensor table_grad)",
    reference=reference.window_attention_backward,
    fake=_fake,
)
