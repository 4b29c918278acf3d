"""What the intermediate code of every Triton kernel shows: offsets of 64 bits, and no atomic sum of floats.

An offset of 32 bits may follow one of 64 bits: an image, or a row of features, has fewer than 2^31 values.
"""

import importlib
import os
import re

import pytest

from bench.compile import compile_kernel
from fastmim_kernels import OPS

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="compiles, and interprets nothing")

# Tensors with offsets of 32 bits or from a product of 32 bits, and why none of these reaches 2^31.
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
    "counts blocks of 1,024": {"scale_": {"x"}},
}  # fmt: skip

NAME = re.compile(r"%[\w$.-]+")
INDICES = ("tt.get_program_id", "tt.load", "counter", "carried")


def definitions(code: str) -> dict[str, tuple[str, list[str], str]]:
    """Name of a value -> operation, operands, line."""
    found = {}
    for line in code.splitlines():
        if (counter := re.search(r"scf\.for (%\w+) =", line)) is not None:
            found[counter[1]] = ("counter", [], line)
        if "iter_args(" in line:
            for name, start in re.findall(r"(%\w+) = (%[\w#]+)", line.split("iter_args(")[1]):
                found[name] = ("carried", [start.split("#")[0]], line)
        if (value := re.match(r"\s*(%[\w$.-]+)(?::\d+)? = ([\w.]+)(.*)", line)) is not None:
            line = re.split(r" loc\(", value[3])[0]
            found[value[1]] = (value[2], NAME.findall(line), line)
    return found


def narrow_offsets(code: str) -> set[str]:
    """Arguments of a kernel, in Triton's IR, whose offsets might pass 2^31 in 32 bits.

    They are of 32 bits from the tensor's start, or were made from a product in 32 bits of a program's number, a loop's
    counter or a loaded value.
    """
    values = definitions(code)

    def tree(name: str, enter) -> set[str]:
        """A value and those it is made from, of those values which `enter` admits."""
        found, todo = set(), [name]
        while todo:
            if (name := todo.pop()) in values and name not in found and enter(name):
                found.add(name)
                todo += [] if values[name][0] == "tt.load" else values[name][1]
        return found

    def is_wide(name: str) -> bool:
        return re.search(r"\bi64$|xi64>$", values[name][2].strip()) is not None

    def wraps(name: str) -> bool:
        products = (v for v in tree(name, lambda v: not is_wide(v)) if values[v][0] == "arith.muli")
        return any(values[v][0] in INDICES for p in products for v in tree(p, lambda v: True))

    found = set()
    for operation, operands, line in list(values.values()):
        if operation != "tt.addptr":
            continue
        pointer, offset = operands
        follows = False
        while pointer in values:
            kind, sources, types = values[pointer]
            follows |= kind == "tt.addptr" and "i64" in types.rsplit(",", 1)[1]
            pointer = sources[0]
        if "i64" in line.rsplit(",", 1)[1]:
            extended = (v for v in tree(offset, lambda v: True) if values[v][0] == "arith.extsi")
            narrow = any(wraps(values[v][1][0]) for v in extended)
        else:
            narrow = not follows
        if narrow:
            found.add(pointer.removeprefix("%"))
    return found


def other_atomics(code: str) -> list[str]:
    """Lines with an atomic operation that is no addition of integers."""
    return [line for line in code.splitlines() if "tt.atomic" in line and "tt.atomic_rmw add," not in line]


@pytest.fixture(scope="module")
def codes() -> dict[str, list[str]]:
    pytest.importorskip("triton")
    found = {}
    for op in OPS:
        kernels = importlib.import_module(f"fastmim_kernels.{op}.cuda").compile_only()
        found[op] = [compile_kernel(*kernel, arch=90)["ttir"] for _, *kernel in kernels]
    return found


def test_offsets_that_can_pass_2_to_the_31_have_64_bits(codes):
    expected = {op: set() for op in OPS}
    for small in SMALL.values():
        for op, names in small.items():
            expected[op] |= names
    assert {op: set().union(*map(narrow_offsets, kernels)) for op, kernels in codes.items()} == expected


def test_only_integers_are_added_atomically(codes):
    """Their sum does not depend on the order, so that gradients have the same bits in every run."""
    assert not {op for op, kernels in codes.items() for code in kernels if other_atomics(code)}


def test_an_offset_of_32_bits_is_found():
    triton = pytest.importorskip("triton")
    import triton.language as tl

    @triton.jit
    def copy(x, y, z, n, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        wide = tl.program_id(0).to(tl.int64) * BLOCK
        value = tl.load(x + i, mask=i < n) + tl.load(y + i.to(tl.int64), mask=i < n)
        tl.store(z + wide + tl.arange(0, BLOCK), value, mask=i < n)

    code = compile_kernel(copy, ["*fp32", "*fp32", "*fp32", "i32"], {"BLOCK": 128}, 4, 90)["ttir"]
    assert narrow_offsets(code) == {"x", "y"}


def test_an_atomic_sum_of_floats_is_found():
    triton = pytest.importorskip("triton")
    import triton.language as tl

    @triton.jit
    def add(x, n):
        tl.atomic_add(n, 1)
        tl.atomic_add(x, 1.0)

    code = compile_kernel(add, ["*fp32", "*i64"], {}, 4, 90)["ttir"]
    assert [line for line in other_atomics(code) if "fadd" in line] == other_atomics(code) != []
