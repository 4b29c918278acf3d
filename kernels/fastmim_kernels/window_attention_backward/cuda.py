"""window_attention_backward for CUDA tensors, in Triton.

One program per window and head works in registers and writes no matrix of token pairs to memory.

Up to 64 tokens per window, all keys, values and their gradients fit the registers of one program. For larger windows,
one launch computes the gradients of queries and, per query, two statistics over all keys. With these statistics a
second launch computes the gradients of the table and, 64 keys per program, of keys and values.

The gradient of the table is summed in integers, since a sum of integers does not depend on the order of the programs.
Each term is a multiple of one unit. The unit is so small that 2^62 units exceed the largest possible sum.
"""

import torch
import triton
import triton.language as tl

from ..window_attention.cuda import SIDES, constants, locate, score, weigh

_KEYS = 64
"""Largest number of keys whose gradients a program keeps."""
_TABLES = 8
"""Copies of the table's gradient, so that fewer programs add to the same place at the same time."""


@triton.jit
def _window(
    grad,  # (B, H, W, heads, D), contiguous
    qkv,  # (B, H, W, 3, heads, D), contiguous
    codes,  # (B or 1, H, W), contiguous
    table,  # (heads, N), contiguous
    qkv_grad,  # (B, H, W, 3, heads, D)
    statistics,  # (B, 2, heads, H, W): log-sum-exp of the scores; sum of weights times g . v
    sums,  # (TABLES, heads, N) int64, units
    units,  # () float32: units per 1
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
    KEYS: tl.constexpr,  # keys worked on together, power of two
    QUERIES: tl.constexpr,  # queries worked on together
    SHARE: tl.constexpr,  # queries of a program
    DIM: tl.constexpr,  # power of two >= D
    PRECISION: tl.constexpr,
    DOT: tl.constexpr,  # type of the factors in matrix products
    TABLES: tl.constexpr,
    OF_KEYS: tl.constexpr,  # True = the gradients of keys, values and table are computed
):
    T: tl.constexpr = ROWS * COLUMNS
    ALL: tl.constexpr = KEYS >= T
    n, head = tl.program_id(0), tl.program_id(1)
    windows = (height // ROWS) * (width // COLUMNS)
    image = (n // windows).to(tl.int64)
    qkv += image * height * width * 3 * heads * D
    qkv_grad += image * height * width * 3 * heads * D
    grad += image * height * width * heads * D
    codes += image * codes_stride
    logarithms = statistics + (image * 2 * heads + head) * height * width
    means = logarithms + heads * height * width
    sums += (n % TABLES).to(tl.int64) * heads * offsets
    count = tl.load(units)
    part = tl.program_id(2)  # part of the keys, or of the queries if only their gradients are computed
    j, d = (part * KEYS if OF_KEYS else 0) + tl.arange(0, KEYS), tl.arange(0, DIM)
    place, area = locate(n % windows, j, height, width, shift_rows, shift_columns, ROWS, COLUMNS)
    code = tl.load(codes + place, mask=j < T, other=0)
    rows = (j < T)[:, None] & (d < D)[None, :]
    key = ((place * 3 + 1) * heads + head)[:, None] * D + d[None, :]
    k = tl.load(qkv + key, mask=rows, other=0.0).to(DOT)
    v = tl.load(qkv + key + heads * D, mask=rows, other=0.0).to(DOT)
    k_grad = tl.zeros((KEYS, DIM), tl.float32)
    v_grad = tl.zeros((KEYS, DIM), tl.float32)
    for first in range(0, SHARE, QUERIES):
        i = (0 if OF_KEYS else part * SHARE) + first + tl.arange(0, QUERIES)
        own, own_area = locate(n % windows, i, height, width, shift_rows, shift_columns, ROWS, COLUMNS)
        own_code = tl.load(codes + own, mask=i < T, other=0)
        own_rows = (i < T)[:, None] & (d < D)[None, :]
        query = (own * 3 * heads + head)[:, None] * D + d[None, :]
        q = tl.load(qkv + query, mask=own_rows, other=0.0).to(DOT)
        g = tl.load(grad + (own * heads + head)[:, None] * D + d[None, :], mask=own_rows, other=0.0).to(DOT)
        index = head * offsets + origin + code[None, :] - own_code[:, None]
        inside = (i < T)[:, None] & (j < T)[None, :]
        apart = own_area[:, None] != area[None, :]
        scores = score(q, k, table, index, apart, inside, scale, PRECISION)
        pairs = tl.dot(g, tl.trans(v), input_precision=PRECISION)
        if ALL:
            weights, total, largest = weigh(scores)
            weights = weights / total[:, None]
            mean = tl.sum(weights * pairs, axis=1)
            if not OF_KEYS:
                tl.store(logarithms + own, largest + tl.log(total), mask=i < T)
                tl.store(means + own, mean, mask=i < T)
        else:
            weights = tl.exp(scores - tl.load(logarithms + own, mask=i < T, other=0.0)[:, None])
            mean = tl.load(means + own, mask=i < T, other=0.0)
        pairs = weights * (pairs - mean[:, None])
        if OF_KEYS:
            tl.atomic_add(sums + index, (pairs * count).to(tl.int64), mask=inside, sem="relaxed")
            v_grad += tl.dot(tl.trans(weights).to(DOT), g, input_precision=PRECISION)
            k_grad += tl.dot(tl.trans(pairs).to(DOT), q, input_precision=PRECISION)
        if ALL:
            q_grad = scale * tl.dot(pairs.to(DOT), k, input_precision=PRECISION)
            tl.store(qkv_grad + query, q_grad.to(qkv_grad.dtype.element_ty), mask=own_rows)
    if OF_KEYS:
        tl.store(qkv_grad + key, (scale * k_grad).to(qkv_grad.dtype.element_ty), mask=rows)
        tl.store(qkv_grad + key + heads * D, v_grad.to(qkv_grad.dtype.element_ty), mask=rows)


def _launches(window, dim: int, dtype: torch.dtype, device: str):
    """Yields the constants and warps of each launch."""
    fixed, warps = constants(window, dim, dtype, device)
    if fixed["KEYS"] > _KEYS:
        yield fixed | {"TABLES": _TABLES, "OF_KEYS": False}, warps
        queries = 16 if dtype == torch.float32 else 32
        fixed, warps = fixed | {"KEYS": _KEYS, "QUERIES": queries, "SHARE": window[0] * window[1]}, 4
    yield fixed | {"TABLES": _TABLES, "OF_KEYS": True}, warps


def launch(grad, qkv, codes, table, num_heads, window, shift, origin, scale):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    grad, qkv, codes, table = grad.contiguous(), qkv.contiguous(), codes.contiguous(), table.contiguous()
    batch, height, width, channels = qkv.shape
    qkv_grad = torch.empty_like(qkv)
    if not qkv.numel():
        return qkv_grad, torch.zeros_like(table)
    dim = channels // (3 * num_heads)
    # A score's gradient is at most its weight times 2 |g . v|, and the weights of a query sum to 1.
    largest = [
        torch.linalg.vector_norm(x, float("inf"), dtype=torch.float32) for x in (grad, qkv[..., -channels // 3 :])
    ]
    bound = (2 * dim * batch * height * width * largest[0] * largest[1]).clamp(min=1e-18)
    units = 2.0**62 / bound
    sums = torch.zeros((_TABLES, *table.shape), dtype=torch.int64, device=table.device)
    statistics = qkv.new_empty((batch, 2, num_heads, height, width), dtype=torch.float32)
    windows, tokens = batch * (height // window[0]) * (width // window[1]), window[0] * window[1]
    for fixed, warps in _launches(window, dim, qkv.dtype, qkv.device.type):
        parts = triton.cdiv(tokens, fixed["KEYS" if fixed["OF_KEYS"] else "SHARE"])
        _window[(windows, num_heads, parts)](
            grad, qkv, codes, table, qkv_grad, statistics, sums, units, height, width, *shift, num_heads,
            0 if codes.shape[0] == 1 else height * width, table.shape[1], origin, scale, **fixed, num_warps=warps,
        )  # fmt: skip
    return qkv_grad, (sums.sum(0).double() / units).float()


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for side in SIDES:
        for dtype in (torch.bfloat16, torch.float32):
            name = "bf16" if dtype == torch.bfloat16 else "fp32"
            types = [*[f"*{name}"] * 2, "*i32", "*fp32", f"*{name}", "*fp32", "*i64", "*fp32", *["i32"] * 8, "fp32"]
            for fixed, warps in _launches((side, side), 32, dtype, "cuda"):
                part = "" if fixed["OF_KEYS"] else " queries"
                yield f"{side}x{side} {name}{part}", _window, types, fixed, warps
