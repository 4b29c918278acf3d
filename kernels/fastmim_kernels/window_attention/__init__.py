"""Attention in shifted windows with a table of position biases, without moving tokens in memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _op
from ..window_attention_backward import check_arguments, window_attention_backward
from . import reference


def window_attention(
    qkv: Tensor,
    codes: Tensor,
    table: Tensor,
    *,
    num_heads: int,
    window: Sequence[int],
    shift: Sequence[int],
    origin: int,
    scale: float,
) -> Tensor:
    """Computes attention inside each window of a rolled map, with a bias per offset of two tokens.

    Swin (arXiv:2103.14030), section 3.2, equation 4; UM-MAE (arXiv:2205.10063), models_mae_swin.py `WindowAttention`.
    For query i and key j of a window, and head h:
        s_ij = scale q_i . k_j + table[h, codes[j] - codes[i] + origin] - 100 [only the roll brought i and j together]
        out_i = sum_j softmax_j(s_ij) v_j
    in float32. Index arithmetic does the roll, the windows and their inverses: qkv and result are in the map's order.

    For offsets of up to R rows and C columns, set `codes[y, x] = r * (2C + 1) + c` for a token in row r, column c of an
    image. The table then holds (2R + 1)(2C + 1) offsets, key - query, and `origin` is the index of its middle.

    qkv and table have gradients. The gradient of table is a sum over all pairs, always in the same order. Only the
    arguments are saved for the backward pass.

    Args:
        qkv: (B, H, W, 3 * heads * D) float32, bfloat16 or float16, the output of the linear layer. For float64 the
            reference runs.
        codes: (B or 1, H, W) int32.
        table: (heads, N) float32, or float64 if qkv is.
        num_heads: number of heads.
        window: rows and columns of a window, which divide the map.
        shift: rows and columns of the roll, 0 <= shift < window.
        origin: index of offset 0 in the table.
        scale: factor on the products of queries and keys.
    Returns: (B, H, W, heads * D) of qkv's type.
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: two codes of a window are further apart than the table reaches, on a CPU only. On a GPU the check
            would make the host wait in every step; there the caller has to pass valid codes.
    """
    args = (qkv, codes, table, num_heads, list(window), list(shift), origin, scale)
    check_arguments(*args)
    if _op.using_reference() or qkv.dtype == torch.float64:
        return reference.window_attention(*args)
    return OP.overload(*args)


def _fake(qkv, codes, table, num_heads, window, shift, origin, scale):
    check_arguments(qkv, codes, table, num_heads, window, shift, origin, scale)
    return qkv.new_empty((*qkv.shape[:3], qkv.shape[3] // 3))


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _backward(ctx, grad):
    qkv, table = window_attention_backward(grad, *ctx.saved_tensors, *ctx.options)
    return qkv, None, table, *[None] * 5


OP = _op.register(
    "window_attention(Tensor qkv, Tensor codes, Tensor table, int num_heads, int[] window, int[] shift, int origin, "
    "float scale) -> Tensor",
    reference=reference.window_attention,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)
