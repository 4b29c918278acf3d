"""mask_token_backward for CUDA tensors, in Triton: one read of the gradient, sums without atomics."""

import torch
import triton
import triton.language as tl

from ..mask_token.cuda import COLUMNS, ROWS, is_hidden, shape


@triton.jit
def _tiles(
    grad,  # (B H W, D), contiguous
    x,  # (B H W, D), contiguous; untouched unless GATED, like gamma and gamma_sums
    hidden,  # (B, rows, columns) bytes
    gamma,  # (D,)
    out,  # (B H W, D); untouched unless WRITES
    token_sums,  # (programs of axis 0, D) float32: parts of the gradient of token
    gamma_sums,  # the same for gamma
    positions,  # B H W
    dim,
    WIDTH: tl.constexpr,
    CELL_HEIGHT: tl.constexpr,
    CELL_WIDTH: tl.constexpr,
    WRITES: tl.constexpr,
    GATED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    where = is_hidden(hidden, n, n < positions, WIDTH, CELL_HEIGHT, CELL_WIDTH)[:, None]
    inside = (n < positions)[:, None] & (d < dim)[None, :]
    at = n.to(tl.int64)[:, None] * dim + d[None, :]
    g = tl.load(grad + at, mask=inside if WRITES else inside & where, other=0.0).to(tl.float32)
    if WRITES:
        value = 0.0
        if GATED:
            value = g * tl.load(gamma + d, mask=d < dim, other=0.0).to(tl.float32)[None, :]
        tl.store(out + at, tl.where(where, value, g).to(out.dtype.element_ty), mask=inside)
    g = tl.where(where, g, 0.0)
    tl.store(token_sums + program * dim + d, tl.sum(g, axis=0), mask=d < dim)
    if GATED:
        product = g * tl.load(x + at, mask=inside & where, other=0.0).to(tl.float32)
        tl.store(gamma_sums + program * dim + d, tl.sum(product, axis=0), mask=d < dim)


def launch(grad, x, hidden, gamma, add):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    grad, hidden = grad.contiguous(), hidden.contiguous()
    gated, dim = gamma is not None, grad.shape[3]
    writes = gated or not add
    out = grad.new_empty(grad.shape if writes else 0)
    grid, constants = shape(grad, hidden)
    token_sums = grad.new_empty((grid[0], dim), dtype=torch.float32)
    gamma_sums = torch.empty_like(token_sums) if gated else token_sums[:, :0]
    if grad.numel():
        given, scale = (x.contiguous(), gamma.contiguous()) if gated else (grad, token_sums)
        _tiles[grid](
            grad, given, hidden.view(torch.uint8), scale, out, token_sums, gamma_sums, grad.numel() // dim, dim,
            WRITES=writes, GATED=gated, **constants, num_warps=4,
        )  # fmt: skip
    return out, token_sums.sum(0), gamma_sums.sum(0)


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for value, mode in [
        ("fp32", "replace"),
        ("bf16", "replace"),
        ("bf16", "add"),
        ("fp32", "gated"),
        ("bf16", "gated"),
    ]:
        types = [f"*{value}", f"*{value}", "*u8", "*fp32", f"*{value}", "*fp32", "*fp32", "i32", "i32"]
        constants = {
            "WIDTH": 56, "CELL_HEIGHT": 8, "CELL_WIDTH": 8, "WRITES": mode != "add", "GATED": mode == "gated",
            "ROWS": ROWS, "COLUMNS": COLUMNS,
        }  # fmt: skip
        yield f"{value} {mode}", _tiles, types, constants, 4
