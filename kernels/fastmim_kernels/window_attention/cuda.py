"""window_attention for CUDA tensors, in Triton: one program holds all keys of a window and head."""

import torch
import triton
import triton.language as tl


@triton.jit
def locate(
    window,  # index among the windows of an image
    t,  # indices of tokens in the window
    height,
    width,
    shift_rows,
    shift_columns,
    ROWS: tl.constexpr,  # of a window
    COLUMNS: tl.constexpr,
):
    """Returns the places of tokens in the map, and the area of each.

    The roll joins up to four areas; 0 to 3 is the index of an area.
    """
    across = width // COLUMNS
    row = (window // across) * ROWS + t // COLUMNS
    column = (window % across) * COLUMNS + t % COLUMNS
    below, beyond = row >= height - shift_rows, column >= width - shift_columns
    row += shift_rows - tl.where(below, height, 0)
    column += shift_columns - tl.where(beyond, width, 0)
    return row * width + column, 2 * below.to(tl.int32) + beyond.to(tl.int32)


@triton.jit
def score(q, k, table, index, apart, inside, scale, PRECISION: tl.constexpr):
    """Returns the scores of some queries (rows) for some keys (columns); -infinity for padding."""
    scores = scale * tl.dot(q, tl.trans(k), input_precision=PRECISION)
    scores += tl.load(table + index, mask=inside, other=0.0)
    return tl.where(inside, scores - tl.where(apart, 100.0, 0.0), float("-inf"))


@triton.jit
def weigh(scores):
    """Returns unnormalised weights of all keys, and the sum of weights and largest score of each query."""
    # A padding row has no key; the bound makes its weights 0, not NaN.
    largest = tl.maximum(tl.max(scores, axis=1), -3e38)
    weights = tl.exp(scores - largest[:, None])
    return weights, tl.maximum(tl.sum(weights, axis=1), 1e-30), largest


@triton.jit
def _window(
    qkv,  # (B, H, W, 3, heads, D), contiguous
    codes,  # (B or 1, H, W), contiguous
    table,  # (heads, N), contiguous
    out,  # (B, H, W, heads, D)
    height,
    width,
    shift_rows,
    shift_columns,
    heads,
    codes_stride,  # from one image to the next
    offsets,  # N
    origin,
    scale,
    ROWS: tl.constexpr,  # of a window
    COLUMNS: tl.constexpr,
    D: tl.constexpr,
    KEYS: tl.constexpr,  # power of two >= ROWS * COLUMNS
    QUERIES: tl.constexpr,  # queries worked on together
    SHARE: tl.constexpr,  # queries of a program
    DIM: tl.constexpr,  # power of two >= D
    PRECISION: tl.constexpr,
    DOT: tl.constexpr,  # type of the factors in matrix products
):
    T: tl.constexpr = ROWS * COLUMNS
    n, head = tl.program_id(0), tl.program_id(1)
    windows = (height // ROWS) * (width // COLUMNS)
    image = (n // windows).to(tl.int64)
    qkv += image * height * width * 3 * heads * D
    out += image * height * width * heads * D
    codes += image * codes_stride
    j, d = tl.arange(0, KEYS), tl.arange(0, DIM)
    place, area = locate(n % windows, j, height, width, shift_rows, shift_columns, ROWS, COLUMNS)
    code = tl.load(codes + place, mask=j < T, other=0)
    rows = (j < T)[:, None] & (d < D)[None, :]
    key = ((place * 3 + 1) * heads + head)[:, None] * D + d[None, :]
    k = tl.load(qkv + key, mask=rows, other=0.0).to(DOT)
    v = tl.load(qkv + key + heads * D, mask=rows, other=0.0).to(DOT)
    for first in range(0, SHARE, QUERIES):
        i = tl.program_id(2) * SHARE + first + tl.arange(0, QUERIES)
        own, own_area = locate(n % windows, i, height, width, shift_rows, shift_columns, ROWS, COLUMNS)
        own_code = tl.load(codes + own, mask=i < T, other=0)
        own_rows = (i < T)[:, None] & (d < D)[None, :]
        q = tl.load(qkv + (own * 3 * heads + head)[:, None] * D + d[None, :], mask=own_rows, other=0.0).to(DOT)
        index = head * offsets + origin + code[None, :] - own_code[:, None]
        inside = (i < T)[:, None] & (j < T)[None, :]
        apart = own_area[:, None] != area[None, :]
        weights, sums, _ = weigh(score(q, k, table, index, apart, inside, scale, PRECISION))
        x = tl.dot(weights.to(DOT), v, input_precision=PRECISION) / sums[:, None]
        to = out + (own * heads + head)[:, None] * D + d[None, :]
        tl.store(to, x.to(out.dtype.element_ty), mask=own_rows)


def constants(window, dim: int, dtype: torch.dtype, device: str) -> tuple[dict, int]:
    """Returns the constants and the warps of the kernels.

    A program works on as many pairs of tokens at a time as stay in registers.
    """
    keys = max(16, triton.next_power_of_2(window[0] * window[1]))
    precise = dtype == torch.float32
    warps = 2 if keys == 16 else 4
    if precise and keys > 64:
        warps = 8
    queries = max(16, min(keys, (1024 if precise else 4096) // keys))
    # In several rounds of the loop, Triton would keep all keys, split for tf32x3, in shared memory, which is too small.
    share = queries if precise and keys > 64 else window[0] * window[1]
    return {
        "ROWS": window[0], "COLUMNS": window[1], "D": dim, "KEYS": keys, "QUERIES": queries, "SHARE": share,
        "DIM": max(16, triton.next_power_of_2(dim)), "PRECISION": "tf32x3" if precise else "tf32",
        # Triton's interpreter, which runs on CPU tensors, multiplies the bits of bfloat16 as integers.
        "DOT": getattr(tl, "float32" if device == "cpu" else str(dtype).removeprefix("torch.")),
    }, warps  # fmt: skip


def launch(qkv, codes, table, num_heads, window, shift, origin, scale):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    qkv, codes, table = qkv.contiguous(), codes.contiguous(), table.contiguous()
    batch, height, width, channels = qkv.shape
    out = qkv.new_empty((batch, height, width, channels // 3))
    if qkv.numel():
        fixed, warps = constants(window, channels // (3 * num_heads), qkv.dtype, qkv.device.type)
        shares = triton.cdiv(window[0] * window[1], fixed["SHARE"])
        _window[(batch * (height // window[0]) * (width // window[1]), num_heads, shares)](
            qkv, codes, table, out, height, width, *shift, num_heads,
            0 if codes.shape[0] == 1 else height * width, table.shape[1], origin, scale, **fixed, num_warps=warps,
        )  # fmt: skip
    return out


SIDES = (4, 6, 7, 8, 12, 14, 16)
"""Window sides for `bench compile`, which are those of UM-MAE and SimMIM at 192, 224 and 256 pixels."""


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for side in SIDES:
        for dtype in (torch.bfloat16, torch.float32):
            name = "bf16" if dtype == torch.bfloat16 else "fp32"
            types = [f"*{name}", "*i32", "*fp32", f"*{name}", *["i32"] * 8, "fp32"]
            yield f"{side}x{side} {name}", _window, types, *constants((side, side), 32, dtype, "cuda")
