"""mask_token for CUDA tensors, in Triton: one program per tile of positions and features."""

import torch
import triton
import triton.language as tl

ROWS, COLUMNS = 32, 128  # of a tile


@triton.jit
def is_hidden(hidden, n, inside, WIDTH: tl.constexpr, CELL_HEIGHT: tl.constexpr, CELL_WIDTH: tl.constexpr):
    """Returns for each of the positions n, counted in all B H W, True if it is in a hidden cell."""
    y, x = n // WIDTH, n % WIDTH  # y and the rows of cells are counted through all images
    cell = y // CELL_HEIGHT * (WIDTH // CELL_WIDTH) + x // CELL_WIDTH
    return tl.load(hidden + cell, mask=inside, other=0) != 0


@triton.jit
def _tiles(
    x,  # (B H W, D), contiguous
    hidden,  # (B, rows, columns) bytes
    token,  # (D,)
    gamma,  # (D,); untouched unless GATED
    out,  # (B H W, D)
    positions,  # B H W
    dim,
    WIDTH: tl.constexpr,
    CELL_HEIGHT: tl.constexpr,
    CELL_WIDTH: tl.constexpr,
    ADD: tl.constexpr,
    GATED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    where = is_hidden(hidden, n, n < positions, WIDTH, CELL_HEIGHT, CELL_WIDTH)[:, None]
    inside = (n < positions)[:, None] & (d < dim)[None, :]
    at = n.to(tl.int64)[:, None] * dim + d[None, :]
    value = tl.load(token + d, mask=d < dim, other=0.0).to(tl.float32)[None, :]
    if ADD:
        given = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            value = tl.load(gamma + d, mask=d < dim, other=0.0).to(tl.float32)[None, :] * given + value
        else:
            value = given + value
    else:
        given = tl.load(x + at, mask=inside & ~where, other=0.0).to(tl.float32)
    tl.store(out + at, tl.where(where, value, given).to(out.dtype.element_ty), mask=inside)


def shape(x, hidden):
    """Returns the grid of programs and the constants of a kernel over the map x (B, H, W, D)."""
    batch, height, width, dim = x.shape
    columns = min(triton.next_power_of_2(dim), COLUMNS)
    grid = (triton.cdiv(batch * height * width, ROWS), triton.cdiv(dim, columns))
    cells = {"CELL_HEIGHT": height // hidden.shape[1], "CELL_WIDTH": width // hidden.shape[2]}
    return grid, {"WIDTH": width, **cells, "ROWS": ROWS, "COLUMNS": columns}


def launch(x, hidden, token, gamma, add):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    x, hidden, token = x.contiguous(), hidden.contiguous(), token.contiguous()
    out = x.new_empty(x.shape)
    if out.numel():
        grid, constants = shape(x, hidden)
        _tiles[grid](
            x, hidden.view(torch.uint8), token, token if gamma is None else gamma.contiguous(), out,
            x.numel() // x.shape[3], x.shape[3], ADD=add, GATED=gamma is not None, **constants, num_warps=4,
        )  # fmt: skip
    return out


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for value, mode in [
        ("fp32", "replace"),
        ("bf16", "replace"),
        ("bf16", "add"),
        ("fp32", "gated"),
        ("bf16", "gated"),
    ]:
        types = [f"*{value}", "*u8", "*fp32", "*fp32", f"*{value}", "i32", "i32"]
        constants = {
            "WIDTH": 56, "CELL_HEIGHT": 8, "CELL_WIDTH": 8, "ADD": mode != "replace", "GATED": mode == "gated",
            "ROWS": ROWS, "COLUMNS": COLUMNS,
        }  # fmt: skip
        yield f"{value} {mode}", _tiles, types, constants, 4
