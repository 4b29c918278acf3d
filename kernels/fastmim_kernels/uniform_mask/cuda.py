"""uniform_mask for CUDA tensors, in Triton.

One program per image draws, sorts and writes, all in registers.
"""

import torch
import triton
import triton.language as tl

from ..philox.cuda import words
from ..random_mask.cuda import sort_warps

_LARGEST = 4096  # as in random_mask; more would take minutes to compile


@triton.jit
def _keys(seed, stream, sample_id, n, BLOCK: tl.constexpr):
    """Returns sort keys, made of draw and index, for the first n draws.

    The keys of all other draws are larger.
    """
    i = tl.arange(0, BLOCK)
    block = tl.arange(0, BLOCK // 4)
    draw = words(seed, stream, sample_id + tl.zeros_like(block), block)
    return tl.where(i < n, draw.to(tl.int64) << 16 | i, 1 << 48)


@triton.jit
def _rows(
    seed,
    stream,
    secondary_stream,
    ids,  # (B,)
    order,  # (B, 4 K)
    secondary,  # (B, K) bytes
    columns,
    kept,
    K: tl.constexpr,
    STRATIFIED: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= max(K, 4)
):
    row = tl.program_id(0).to(tl.int64)
    sample_id = tl.load(ids + row)
    if STRATIFIED:
        each: tl.constexpr = (K + 1) // 2
        corner = ((tl.sort(_keys(seed, stream, sample_id, 4 * each, 2 * BLOCK)) & 0xFFFF) // each).to(tl.int32)
    else:
        corner = (_keys(seed, stream, sample_id, K, BLOCK) >> 46).to(tl.int32)

    patch = tl.arange(0, 4 * BLOCK)
    r, c = patch // columns, patch % columns
    block = (r // 2) * (columns // 2) + c // 2
    shown = tl.gather(corner, tl.minimum(block, K - 1), 0)
    inside = patch < 4 * K
    hidden = (inside & (shown != r % 2 * 2 + c % 2)).to(tl.int32)
    at = tl.where(hidden == 1, K - 1 + tl.cumsum(hidden), block)
    tl.store(order + row * 4 * K + at, patch.to(tl.int64), mask=inside)

    k = tl.arange(0, BLOCK)
    key = _keys(seed, secondary_stream, sample_id, K, BLOCK)
    last = tl.sum(tl.where(k == kept - 1, tl.sort(key), 0))
    tl.store(secondary + row * K + k, (key > last).to(tl.uint8), mask=k < K)


def launch(seed, stream, secondary_stream, ids, rows, columns, kept, stratified):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter.

    Raises:
        ValueError: more patches than one program can sort.
    """
    patches = rows * columns
    if patches > _LARGEST:
        raise ValueError(f"uniform_mask on CUDA takes at most {_LARGEST} patches, got {patches}: use larger patches")
    order = ids.new_empty(len(ids), patches)
    secondary = ids.new_empty((len(ids), patches // 4), dtype=torch.bool)
    if len(ids):
        block = max(triton.next_power_of_2(patches // 4), 4)
        _rows[(len(ids),)](
            seed, stream, secondary_stream, ids.contiguous(), order, secondary.view(torch.uint8), columns, kept,
            K=patches // 4, STRATIFIED=stratified, BLOCK=block, num_warps=sort_warps(4 * block, True),
        )  # fmt: skip
    return order, secondary


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for side, stratified in ((16, True), (16, False), (14, True), (32, True), (64, True)):
        block = triton.next_power_of_2(side**2 // 4)
        constants = {"K": side**2 // 4, "STRATIFIED": stratified, "BLOCK": block}
        types = ["i64", "i32", "i32", "*i64", "*i64", "*u8", "i32", "i32"]
        label = f"{side} x {side} patches, {'stratified' if stratified else 'iid'}"
        yield label, _rows, types, constants, sort_warps(4 * block, True)
