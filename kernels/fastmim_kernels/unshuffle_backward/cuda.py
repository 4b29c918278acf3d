"""unshuffle_backward for CUDA tensors, in Triton: one read of the gradient, sums without atomics."""

import torch
import triton
import triton.language as tl

_ROWS, _COLUMNS = 32, 128


@triton.jit
def _latent_and_token(
    grad,  # (B, prefix + L, D), contiguous
    ids,  # (B, L), contiguous
    latent,  # (B, prefix + K, D)
    sums,  # (programs of axis 0, D) float32: parts of the gradient of mask_token
    num_prefix,
    num_given,  # prefix + K
    num_tokens,  # prefix + L
    dim,
    RASTER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    parts = tl.cdiv(num_tokens, ROWS)
    image = n // parts
    j = (n % parts) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row = j
    if RASTER:
        patch = (j >= num_prefix) & (j < num_tokens)
        index = ids + image * (num_tokens - num_prefix) + j - num_prefix
        row = tl.where(patch, num_prefix + tl.load(index, mask=patch, other=0), j)
    inside = (j < num_tokens)[:, None] & (d < dim)[None, :]
    x = tl.load(grad + (image * num_tokens + row)[:, None] * dim + d[None, :], mask=inside, other=0.0).to(tl.float32)
    given = (j < num_given)[:, None]
    target = latent + (image * num_given + j)[:, None] * dim + d[None, :]
    tl.store(target, x.to(latent.dtype.element_ty), mask=inside & given)
    tl.store(sums + n * dim + d, tl.sum(tl.where(given, 0.0, x), axis=0), mask=d < dim)


@triton.jit
def _positions(
    grad,  # (B, prefix + L, D), contiguous
    row_of,  # (B, prefix + L): for each token in raster order, its row of grad, of all B (prefix + L)
    pos,  # (prefix + L, D) float32
    batch,
    num_tokens,
    dim,
    ROUNDS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    # The bound is a constant, as Triton 3.6's interpreter requires; a power of two, so that few are compiled.
    at = token
    for image in range(ROUNDS):
        row = tl.load(row_of + at, mask=image < batch, other=0)
        width = tl.where(image < batch, dim, 0)
        total += tl.load(grad + row * dim + d, mask=d < width, other=0.0).to(tl.float32)
        at += num_tokens
    tl.store(pos + token * dim + d, total, mask=d < dim)


def launch(grad, ids, num_keep, raster, dtype, with_pos):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    grad, ids = grad.contiguous(), ids.contiguous()
    batch, num_tokens, dim = grad.shape
    num_prefix = num_tokens - ids.shape[1]
    latent = grad.new_empty((batch, num_prefix + num_keep, dim), dtype=dtype)
    parts, columns = triton.cdiv(num_tokens, _ROWS), triton.cdiv(dim, _COLUMNS)
    sums = grad.new_empty((batch * parts, dim), dtype=torch.float32)
    pos = grad.new_zeros((1, num_tokens, dim) if with_pos else 0, dtype=torch.float32)
    if grad.numel():
        _latent_and_token[(batch * parts, columns)](
            grad, ids, latent, sums, num_prefix, num_prefix + num_keep, num_tokens, dim,
            RASTER=raster, ROWS=_ROWS, COLUMNS=_COLUMNS, num_warps=4,
        )  # fmt: skip
    if grad.numel() and with_pos:
        row_of = torch.arange(batch * num_tokens, device=grad.device).reshape(batch, num_tokens)
        if not raster:
            row_of[:, num_prefix:] = row_of[:, num_prefix:].gather(1, ids.argsort(1))
        _positions[(num_tokens, columns)](
            grad, row_of, pos, batch, num_tokens, dim,
            ROUNDS=triton.next_power_of_2(batch), COLUMNS=_COLUMNS, num_warps=1,
        )  # fmt: skip
    return latent, sums.sum(0)[None, None], pos


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for label, grad, latent, raster in [
        ("fp32", "fp32", "fp32", False),
        ("fp32 bf16 (autocast)", "fp32", "bf16", False),
        ("bf16 raster", "bf16", "bf16", True),
    ]:
        types = [f"*{grad}", "*i64", f"*{latent}", "*fp32", "i32", "i32", "i32", "i32"]
        yield label, _latent_and_token, types, {"RASTER": raster, "ROWS": _ROWS, "COLUMNS": _COLUMNS}, 4
    types = ["*bf16", "*i64", "*fp32", "i32", "i32", "i32"]
    yield "positions bf16", _positions, types, {"ROUNDS": 64, "COLUMNS": _COLUMNS}, 1
