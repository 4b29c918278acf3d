"""block_mask for CUDA tensors, in Triton: one program per image draws, sorts and writes."""

import triton
import triton.language as tl

from ..philox.cuda import words
from ..random_mask.cuda import sort_warps

_LARGEST = 2048  # more blocks would not fit into the registers


@triton.jit
def _rows(
    seed,
    stream,
    ids,  # (B,)
    order,  # (B, rows * columns)
    rows,
    columns,
    blocks,
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= max(blocks, 4)
):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    counter = tl.arange(0, BLOCK // 4)
    draw = words(seed, stream, tl.load(ids + row) + tl.zeros_like(counter), counter)
    block = tl.sort(tl.where(i < blocks, draw.to(tl.int64) << 16 | i, 1 << 48)).to(tl.int32) & 0xFFFF
    across = tl.cdiv(columns, SIDE)
    top, left = block // across * SIDE, block % across * SIDE
    height, width = tl.minimum(SIDE, rows - top), tl.minimum(SIDE, columns - left)
    count = tl.where(i < blocks, height * width, 0)
    order += row * rows * columns + tl.cumsum(count) - count
    # One column of all blocks after another. The bound is a constant, as Triton 3.6's interpreter requires.
    for offset in range(SIDE * SIDE):
        r, c = offset % SIDE, offset // SIDE
        patch = (top + r) * columns + left + c
        tl.store(order + c * height + r, patch.to(tl.int64), mask=(i < blocks) & (r < height) & (c < width))


def launch(seed, stream, ids, rows, columns, side):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter.

    Raises:
        ValueError: more blocks than one program can sort.
    """
    blocks = triton.cdiv(rows, side) * triton.cdiv(columns, side)
    if blocks > _LARGEST:
        raise ValueError(f"block_mask on CUDA takes at most {_LARGEST} blocks, got {blocks}: use larger ones")
    order = ids.new_empty(len(ids), rows * columns)
    if len(ids):
        block = max(triton.next_power_of_2(blocks), 4)
        # A block larger than the grid covers the whole grid.
        _rows[(len(ids),)](
            seed, stream, ids.contiguous(), order, rows, columns, blocks,
            SIDE=min(side, max(rows, columns)), BLOCK=block, num_warps=sort_warps(block, False),
        )  # fmt: skip
    return order


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for blocks, side in ((36, 1), (49, 2), (196, 2), (_LARGEST, 2)):
        block = triton.next_power_of_2(blocks)
        types = ["i64", "i32", "*i64", "*i64", "i32", "i32", "i32"]
        yield (
            f"{blocks} blocks of {side} x {side}",
            _rows,
            types,
            {"SIDE": side, "BLOCK": block},
            sort_warps(block, False),
        )
