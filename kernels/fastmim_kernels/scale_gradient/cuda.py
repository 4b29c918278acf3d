"""scale_gradient for CUDA tensors, in Triton.

Reads the factor on the device, and ends at once if it is 1.
"""

import triton
import triton.language as tl

_PROGRAMS = 1024  # a few per multiprocessor, so that a factor of 1 costs little more than the launch


@triton.jit
def _scale(x, factor, n, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    f = tl.load(factor)
    if f != 1:
        # The bound is a constant, as Triton 3.6's interpreter requires; a power of two, so that few are compiled.
        for k in range(ROUNDS):
            i = (tl.program_id(0) + k * tl.num_programs(0)).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
            value = tl.load(x + i, mask=i < n).to(tl.float32)
            tl.store(x + i, (value * f).to(x.dtype.element_ty), mask=i < n)


def launch(x, factor) -> None:
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    n = x.numel()
    if n:
        blocks = triton.cdiv(n, 1024)
        programs = min(blocks, _PROGRAMS)
        _scale[(programs,)](x, factor, n, ROUNDS=triton.next_power_of_2(triton.cdiv(blocks, programs)), BLOCK=1024)


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for value in ("fp32", "bf16", "fp16"):
        yield value, _scale, [f"*{value}", "*fp32", "i64"], {"ROUNDS": 32, "BLOCK": 1024}, 4
