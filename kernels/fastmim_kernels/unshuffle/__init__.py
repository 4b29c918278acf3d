"""Decoder input of masked auto-encoders: visible tokens, mask tokens and positions, joined."""

import torch
from torch import Tensor

from .. import _op
from .._check import FLOATS, check_one_device
from ..unshuffle_backward import unshuffle_backward
from . import reference


def unshuffle(latent: Tensor, mask_token: Tensor, pos_embed: Tensor, ids: Tensor, *, raster: bool) -> Tensor:
    """Fills the hidden patches with the mask token and adds the position of every token.

    MAE (arXiv:2111.06377), section 3, "MAE decoder"; models_mae.py `forward_decoder`:
        out[b, row of l] = (latent[b, prefix + j] if j < K else mask_token) + pos_embed[prefix + l],  l = ids[b, j]
    In raster order, the row of patch l is prefix + l. Otherwise its row is prefix + j, and the order is prefix,
    visible, hidden. The prefix (class) tokens stay in front. Each sum is rounded once, from float32.

    The gradient of latent is its rows of the incoming gradient. The gradient of mask_token is the sum over all hidden
    rows. The gradient of pos_embed is the sum over the batch, formed only if needed. Sums are in float32, always in the
    same order.

    Args:
        latent: (B, prefix + K, D) float32, bfloat16 or float16: prefix tokens, then patches ids[:, :K].
        mask_token: (1, 1, D), of latent's type or float32.
        pos_embed: (1, prefix + L, D), of mask_token's type, which is the type of the result. Under autocast, float32
            weights keep the residual stream in float32.
        ids: (B, L) int64, in every row a permutation of the patches.
        raster: True = the result is in raster order, see above.
    Returns: (B, prefix + L, D).
    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        IndexError: an index is out of range, in the reference on a CPU only.
        RuntimeError: an index is out of range or occurs twice, in C++ only. On a GPU the check would make the host wait
            in every step; there the caller has to pass valid indices.
    """
    args = (latent, mask_token, pos_embed, ids, raster)
    _check(*args)
    return reference.unshuffle(*args) if _op.using_reference() else OP.overload(*args)


def _check(latent, mask_token, pos_embed, ids, raster) -> None:
    if latent.ndim != 3 or ids.ndim != 2 or latent.shape[0] != ids.shape[0]:
        raise ValueError(
            f"expected latent (B, prefix + K, D) and ids (B, L), got {tuple(latent.shape)} and {tuple(ids.shape)}"
        )
    dim, num_patches = latent.shape[2], ids.shape[1]
    if mask_token.shape != (1, 1, dim) or pos_embed.ndim != 3 or (pos_embed.shape[0], pos_embed.shape[2]) != (1, dim):
        raise ValueError(
            f"expected mask_token (1, 1, {dim}) and pos_embed (1, prefix + L, {dim}), "
            f"got {tuple(mask_token.shape)} and {tuple(pos_embed.shape)}"
        )
    prefix = pos_embed.shape[1] - num_patches
    if not 0 <= prefix <= latent.shape[1] <= pos_embed.shape[1]:
        raise ValueError(
            f"latent: expected {max(prefix, 0)} to {pos_embed.shape[1]} tokens for {num_patches} patches and "
            f"{pos_embed.shape[1]} positions, got {latent.shape[1]}"
        )
    tokens = (latent, mask_token, pos_embed)
    types = [x.dtype for x in tokens]
    if types[0] not in FLOATS or types[1] != types[2] or types[1] not in (types[0], torch.float32):
        raise ValueError(
            "expected latent float32, bfloat16 or float16, mask_token and pos_embed both of its type or both float32, "
            f"got {types[0]}, {types[1]} and {types[2]}"
        )
    if ids.dtype != torch.int64:
        raise ValueError(f"expected ids int64, got {ids.dtype}")
    check_one_device(*tokens, ids)


def _fake(latent, mask_token, pos_embed, ids, raster):
    _check(latent, mask_token, pos_embed, ids, raster)
    return pos_embed.new_empty((latent.shape[0], *pos_embed.shape[1:]))


def _setup_context(ctx, inputs, output):
    latent, mask_token, pos_embed, ids, raster = inputs
    ctx.save_for_backward(ids)
    ctx.num_keep = latent.shape[1] - (pos_embed.shape[1] - ids.shape[1])
    ctx.raster = raster
    ctx.dtypes = (latent.dtype, mask_token.dtype, pos_embed.dtype)


def _backward(ctx, grad):
    latent_type, token_type, pos_type = ctx.dtypes
    with_pos = ctx.needs_input_grad[2]
    (ids,) = ctx.saved_tensors
    latent, token, pos = unshuffle_backward(grad, ids, ctx.num_keep, ctx.raster, latent_type, with_pos)
    return latent, token.to(token_type), pos.to(pos_type) if with_pos else None, None, None


OP = _op.register(
    "unshuffle(Tensor latent, Tensor mask_token, Tensor pos_embed, Tensor ids, bool raster) -> Tensor",
    reference=reference.unshuffle,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)
