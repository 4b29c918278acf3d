"""Attention in shifted windows with a table of position biases, on the tokens where they lie: nothing is moved."""

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
    """Attention inside each window of a map that is rolled by -shift, with a bias for how far apart two tokens are.

    Swin (arXiv:2103.14030), section 3.2, equation 4; UM-MAE (arXiv:2205.10063), models_mae_swin.py `WindowAttention`.
    For query i and key j of a window, of head h:
        s_ij = scale q_i . k_j + table[h, codes[j] - codes[i] + origin] - 100 [the roll alone brought i and j together]
        out_i = sum_j softmax_j(s_ij) v_j
    in float32. Roll, cut and their inverses are index arithmetic: qkv and the result are in the order of the map.
    `codes` numbers the positions such that a difference tells the offset: with (r, c) the place in an image of which
    offsets reach R rows and C columns, r (2 C + 1) + c; the table then holds (2 R + 1) (2 C + 1) offsets, key - query,
    and `origin` is its middle. Gradients: of qkv, and of table the sum over all pairs, always added in the same order.
    Saved for them are the arguments alone.

    Args:
        qkv: (B, H, W, 3 * heads * D) float32, bfloat16 or float16, as the linear layer gives it; or float64, for which
            the reference runs.
        codes: (B or 1, H, W) int32.
        table: (heads, N) float32, or float64 when qkv is.
        window, shift: (rows, columns); windows divide the map, and 0 <= shift < window.
    Returns: (B, H, W, heads * D) of qkv's type.
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: two codes of a window are further apart than the table reaches, on the CPU. On a GPU that check
            would make the host wait on every step: there it is the caller's duty.
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
