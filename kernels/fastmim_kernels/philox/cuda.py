"""philox for CUDA tensors, in Triton.

Each thread draws the four words of a counter and writes them together.
"""

import triton
import triton.language as tl


@triton.jit
def words(seed, stream, sample_id, block):
    """Returns the four words of each counter (block, id, stream), counter by counter.

    Args:
        seed: 64 bits.
        stream: 32 bits.
        sample_id: int64.
        block: int32.
    """
    low, high = sample_id.to(tl.uint32), (sample_id >> 32).to(tl.uint32)
    c0, c1, c2, c3 = tl.philox(seed, block.to(tl.uint32), low, high, (tl.zeros_like(block) + stream).to(tl.uint32))
    return tl.interleave(tl.interleave(c0, c2), tl.interleave(c1, c3))


@triton.jit
def _blocks(seed, stream, ids, out, count, N: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    i = first + tl.arange(0, BLOCK)
    sample_id = tl.load(ids + i // BLOCKS, mask=i < count, other=0)
    value = words(seed, stream, sample_id, (i % BLOCKS).to(tl.int32))
    j = 4 * first + tl.arange(0, 4 * BLOCK)
    word = j % (4 * BLOCKS)
    tl.store(out + j // (4 * BLOCKS) * N + word, value.to(tl.int64), mask=(j // 4 < count) & (word < N))


def launch(seed, stream, ids, n):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    out = ids.new_empty(len(ids), n)
    blocks = triton.cdiv(n, 4)
    count = len(ids) * blocks
    if count:
        _blocks[(triton.cdiv(count, 128),)](
            seed, stream, ids.contiguous(), out, count, N=n, BLOCKS=blocks, BLOCK=128, num_warps=4
        )
    return out


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for n in (1, 2, 40, 196):
        constants = {"N": n, "BLOCKS": triton.cdiv(n, 4), "BLOCK": 128}
        yield f"{n} words", _blocks, ["i64", "i32", "*i64", "*i64", "i64"], constants, 4
