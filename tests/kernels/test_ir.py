"""Tests on the IR of every Triton kernel: offsets have 64 bits, atomic sums are of integers.

One image and one row of features have fewer than 2^31 values by assumption; the tensor of a batch may have more.
"""

import importlib
import os

import pytest

from fastmim_kernels import OPS
from tests.kernels.ir import lower, narrow_offsets

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="compiles, and interprets nothing")

# Tensors with offsets of 32 bits, or from a product in 32 bits, and why no such offset reaches 2^31.
SMALL = {
    "one number per channel": {
        "composite_residual": {"mean", "std"},
        "composite_residual_backward": {"mean", "std"},
        "mean_fill": {"mean", "std"},
        "patch_gather": {"mean", "std"},
        "patch_loss": {"mean", "std"},
    },
    "one number per feature": {
        "mask_token": {"token", "gamma"},
        "mask_token_backward": {"gamma"},
        "unshuffle": {"mask_token"},
    },
    "a table of one image's waves": {"low_pass": {"waves_y", "waves_x", "weights"}},
    "one number per head and distance": {"window_attention": {"table"}, "window_attention_backward": {"table"}},
    "one number per hidden patch": {"patch_loss": {"sums"}},
    "positions, which the op's check limits to 2^31": {
        "block_mask": {"order"},
        "mask_token": {"hidden", "x", "out"},
        "mask_token_backward": {"hidden", "grad", "x", "out"},
    },
    "counts blocks of 1,024": {"scale_gradient": {"x"}},
    "a place in one image, behind 64 bits that count images": {
        "low_pass": {"images", "out", "spectrum", "wanted"},
        "mean_fill": {"hidden", "images", "out"},
        "window_attention": {"codes", "out", "qkv"},
        "window_attention_backward": {"codes", "grad", "qkv", "qkv_grad", "statistics"},
    },
    "a place in one image's spectrum, behind 64 bits that count planes": {"focal_frequency": {"spectrum"}},
    "a place in one row of features, behind 64 bits that count rows": {
        "mask_token_backward": {"gamma_sums", "token_sums"},
        "unshuffle_backward": {"grad", "latent", "pos", "sums"},
    },
    "a place in one table's gradient": {"window_attention_backward": {"sums"}},
}  # fmt: skip
# Tensors with offsets from a product in 32 bits of sizes alone, without an index: sizes of one image or its patches.
SIZES = {
    "composite_residual": {"fill", "images", "inverse", "pred", "residual"},
    "composite_residual_backward": {"grad_residual", "images"},
    "patch_gather": {"images", "out"},
    "patch_loss": {"grad", "images", "pred"},
    "patch_scatter": {"grad", "ids", "out"},
    "uniform_mask": {"order"},
}


def other_atomics(code: str) -> list[str]:
    """Returns the lines with an atomic operation that is no addition of integers."""
    return [line for line in code.splitlines() if "tt.atomic" in line and "tt.atomic_rmw add," not in line]


@pytest.mark.costly("compile", "Triton's IR of every kernel, which only one test lowers")
def test_offsets_have_64_bits_and_only_integers_are_added_atomically():
    """A sum of integers does not depend on the order, so gradients have the same bits in every run."""
    codes, expected = {}, {op: set() for op in OPS}
    for op in OPS:
        kernels = importlib.import_module(f"fastmim_kernels.{op}.cuda").compile_only()
        codes[op] = [lower(*kernel) for _, *kernel in kernels]
    for small in SMALL.values():
        for op, names in small.items():
            expected[op] |= names

    def found(**options) -> dict[str, set[str]]:
        return {op: set().union(*(narrow_offsets(code, **options) for code in codes[op])) for op in OPS}

    assert found(sizes=False) == expected
    assert found() == {op: names | SIZES.get(op, set()) for op, names in expected.items()}
    assert not {op for op, kernels in codes.items() for code in kernels if other_atomics(code)}


def test_offsets_of_32_bits_are_found():
    import triton
    import triton.language as tl

    @triton.jit
    def copy(x, y, z, shifted, carried, pointer, chosen, given, counted, n, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        wide = tl.program_id(0).to(tl.int64) * BLOCK
        value = tl.load(x + i, mask=i < n) + tl.load(y + i.to(tl.int64), mask=i < n)
        tl.store(z + wide + tl.arange(0, BLOCK), value)
        tl.store(shifted + (tl.program_id(0) << 10).to(tl.int64), 1.0)
        at = n
        place = pointer
        wide_place = given + wide
        last = n
        for k in range(n):
            tl.store(carried + at.to(tl.int64), 1.0)
            place += k
            wide_place += wide
            at += n
            last = k * n
        tl.store(place, 1.0)
        tl.store(wide_place + tl.arange(0, BLOCK), value)
        tl.store(counted + last.to(tl.int64), 1.0)
        branch = tl.program_id(0)
        if n > tl.load(z):
            tl.debug_barrier()
            branch = branch * n
        tl.store(chosen + branch.to(tl.int64), 1.0)

    types = [*["*fp32"] * 9, "i32"]
    code = lower(copy, types, {"BLOCK": 128}, 4)
    assert "scf.if" in code and "arith.shli" in code and "iter_args" in code
    assert narrow_offsets(code) == {"x", "y", "shifted", "carried", "pointer", "chosen", "counted"}


def test_offsets_that_other_operations_than_a_product_of_indices_make_narrow_are_found():
    import triton
    import triton.language as tl

    @triton.jit
    def write(cut, unsigned, spread, product, rounded, after, constant, n, m, BLOCK: tl.constexpr):
        program, i = tl.program_id(0), tl.arange(0, BLOCK)
        tl.store(cut + (program.to(tl.int64) * n).to(tl.int32).to(tl.int64), 1.0)
        tl.store(unsigned + (program.to(tl.uint32) * BLOCK).to(tl.int64), 1.0)
        tl.store(spread + (i * n).to(tl.int64), 1.0)
        tl.store(product + (n * m).to(tl.int64), 1.0)
        tl.store(rounded + (program.to(tl.float32) * n).to(tl.int64), 1.0)
        tl.store(after + program.to(tl.int64) * n + program * m, 1.0)
        tl.store(constant + program.to(tl.int64) * n + i * 3, 1.0)

    code = lower(write, [*["*fp32"] * 7, *["i32"] * 2], {"BLOCK": 128}, 4)
    assert all(operation in code for operation in ("arith.trunci", "arith.extui", "arith.fptosi"))
    assert narrow_offsets(code) == {"cut", "unsigned", "spread", "product", "rounded", "after"}
    assert narrow_offsets(code, sizes=False) == {"cut", "unsigned", "rounded", "after"}


def test_a_tensor_descriptor_is_refused():
    import triton
    import triton.language as tl

    @triton.jit
    def write(x, n):
        tl.make_tensor_descriptor(x, [n, n], [n, 1], [16, 16]).store([0, 0], tl.zeros((16, 16), tl.float32))

    code = lower(write, ["*fp32", "i32"], {}, 4)
    with pytest.raises(ValueError, match="addresses"):
        narrow_offsets(code)


def test_a_loop_of_unknown_form_is_refused():
    with pytest.raises(ValueError, match="scf.while"):
        narrow_offsets("module {\n%0 = scf.while (%a = %b) : (i32) -> i32 {")


def test_an_atomic_sum_of_floats_is_found():
    import triton
    import triton.language as tl

    @triton.jit
    def add(x, n):
        tl.atomic_add(n, 1)
        tl.atomic_add(x, 1.0)

    code = lower(add, ["*fp32", "*i64"], {}, 4)
    assert [line for line in other_atomics(code) if "fadd" in line] == other_atomics(code) != []
