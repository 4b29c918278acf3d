"""random_mask for CUDA tensors, in Triton.

One program per image draws, sorts and writes, all in registers.
"""

import triton
import triton.language as tl

from ..philox.cuda import words

_LARGEST = 4096  # 8,192 patches would not fit into the registers


@triton.jit
def _rows(
    seed,
    stream,
    ids,  # (B,)
    out,  # (B, PATCHES)
    num_keep,
    PATCHES: tl.constexpr,
    RASTER: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= max(PATCHES, 4)
):
    row = tl.program_id(0).to(tl.int64)
    out += row * PATCHES
    patch = tl.arange(0, BLOCK)
    block = tl.arange(0, BLOCK // 4)
    draw = words(seed, stream, tl.load(ids + row) + tl.zeros_like(block), block)
    key = draw.to(tl.int64) << 16 | patch
    key = tl.where(patch < PATCHES, key, 1 << 48)
    order = tl.sort(key)
    if RASTER:
        limit = tl.sum(tl.where(patch == num_keep - 1, order, 0))
        keep = (key <= limit).to(tl.int32)
        visible = tl.cumsum(keep)  # visible patches up to this patch, itself included
        at = tl.where(keep == 1, visible - 1, num_keep + patch - visible)
        tl.store(out + at, patch.to(tl.int64), mask=patch < PATCHES)
    else:
        tl.store(out + patch, order & 0xFFFF, mask=patch < PATCHES)


def launch(seed, stream, ids, num_patches, num_keep, raster):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter.

    Raises:
        ValueError: more patches than one program can sort.
    """
    if num_patches > _LARGEST:
        raise ValueError(f"random_mask on CUDA takes at most {_LARGEST} patches, got {num_patches}: use larger patches")
    out = ids.new_empty(len(ids), num_patches)
    if len(ids):
        block = max(triton.next_power_of_2(num_patches), 4)
        _rows[(len(ids),)](
            seed, stream, ids.contiguous(), out, num_keep,
            PATCHES=num_patches, RASTER=raster, BLOCK=block, num_warps=sort_warps(block, raster),
        )  # fmt: skip
    return out


def sort_warps(block: int, raster: bool) -> int:
    """Returns the number of warps of a program that sorts.

    One per 64 keys, at most 16 in raster order (more would spill registers) and 32 in noise order.
    """
    return min(max(block // 64, 1), 16 if raster or block < 4096 else 32)


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for patches, raster in ((196, False), (196, True), (1024, True), (_LARGEST, False), (_LARGEST, True)):
        block = triton.next_power_of_2(patches)
        constants = {"PATCHES": patches, "RASTER": raster, "BLOCK": block}
        label = f"{patches} patches, {'raster' if raster else 'noise order'}"
        yield label, _rows, ["i64", "i32", "*i64", "*i64", "i32"], constants, sort_warps(block, raster)
