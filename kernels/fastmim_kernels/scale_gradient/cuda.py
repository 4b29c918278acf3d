"""scale_gradient for CUDA tensors, in Triton: the factor is read on the device, and 1 ends every program at once."""

import triton
import triton.language as tl

_PROGRAMS = 1024  # a few per multiprocessor: with a factor of 1 the launch is all that is paid


@triton.jit
def _scale(x, factor, n, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    f = tl.load(factor)
    if f != 1:
        # A constant bound, a power of two so that few are compiled: Triton 3.6's interpreter refuses another.
        for k in range(ROUNDS):
            i = (tl.program_id(0) + k * tl.num_programs(0)).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
            value = tl.load(x + i, mask=i < n).to(tl.float32)
            tl.store(x + i, (value * f).to(x.dtype.element_ty), mask=i < n)


def launch(x, factor) -> None:
    """The op's schema, on CUDA tensors (on CPU tensors in Triton's interpreter)."""
    n = x.numel()
    if n:
        blocks = triton.cdiv(n, 1024)
        programs = min(blocks, _PROGRAMS)
        _scale[(programs,)](x, factor, n, ROUNDS=triton.next_power_of_2(triton.cdiv(blocks, programs)), BLOCK=1024)


def compile_only():
    """Returns the kernels for `bench.compile`: (label, kernel, types of the runtime arguments, constants, warps)."""
    for value in ("fp32", "bf16", "fp16"):
        yield value, _scale, [f"*{value}", "*fp32", "i64"], {"ROUNDS": 32, "BLOCK": 1024}, 4
