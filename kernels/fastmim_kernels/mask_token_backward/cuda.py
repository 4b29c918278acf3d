"""mask_token_backward for CUDA tensors, in Triton: one read of grad, sums without atomics."""

import torch
import triton
import triton.language as tl

from ..mask_token.cuda import COLUMNS, ROWS, is_hidden, shape


@triton.jit
def _tiles(
    grad,  # (B H W, D), contiguous
    x,  # (B H W, D), contiguous; untouched unless GATED, as gamma and gamma_sums
    hidden,  # (B, rows, columns) bytes
    gamma,  # (D,)
    out,  # (B H W, D); untouched unless WRITES
    token_sums,  # (programs of axis 0, D) float32: what each adds to token's gradient
    gamma_sums,  # the same for gamma's
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
    """The op's schema, on CUDA tensors (on CPU tensors in Triton's interpreter)."""
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
    """Returns the kernels for `bench.compile`: (label, kernel, types of the runtime arguments, constants, warps)."""
    for value, writes, gated in [
        ("fp32", True, False),
        ("bf16", True, False),
        ("bf16", False, False),
        ("fp32", True, True),
        ("bf16", True, True),
    ]:
        types = [f"*{value}", f"*{value}", "*u8", "*fp32", f"*{value}", "*fp32", "*fp32", "i32", "i32"]
        constants = {
            "WIDTH": 56, "CELL_HEIGHT": 8, "CELL_WIDTH": 8, "WRITES": writes, "GATED": gated, "ROWS": ROWS,
            "COLUMNS": COLUMNS,
        }  # fmt: skip
        yield f"{value} {'gated' if gated else 'replace' if writes else 'add'}", _tiles, types, constants, 4
