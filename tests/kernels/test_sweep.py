"""Tests of every case of every op in every dtype: C++ and Triton against the reference.

`make test` runs covering samples. The campaign runs the rest, which is marked slow. A GPU runs all of it.
"""

import importlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest
import torch

from fastmim_kernels import OPS, require
from tests.kernels.fills import check_fill
from tests.sweep import covering

pytestmark = pytest.mark.filterwarnings("ignore:var_mean")  # the reference of an empty batch
MODULES = {op: importlib.import_module(f"fastmim_kernels.{op}.cases") for op in OPS}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Large cases that take the interpreter two seconds or more each. Smaller cases cover the same code.
COSTLY = {("low_pass", case) for case in ("small", "small_float", "small_fp16", "all_patches", "one_patch", "no_patch")}
COSTLY |= {("patch_scatter", "mae_vit_b")}


def dtypes(op: str) -> tuple[torch.dtype, ...]:
    """Returns the dtypes that an op computes in."""
    names = MODULES[op].BENCH_DTYPES
    if names == ("int64",):
        return (torch.int64,)
    return DTYPES if "bf16" in names else DTYPES[:1]


def rows() -> Iterator[tuple]:
    """Yields op, case and dtype. Each case begins with another dtype, so that samples of cases vary them."""
    for op in OPS:
        types = dtypes(op)
        for i, case in enumerate(MODULES[op].CASES):
            first = i % len(types)
            yield from ((op, case, dtype) for dtype in types[first:] + types[:first])


def choices(case) -> Iterator[tuple]:
    """Yields the fields of a case that are no sizes and no numbers, and whether it has images and rows."""
    for field in fields(case):
        value = getattr(case, field.name)
        if is_dataclass(value):
            yield from choices(value)
        elif value is None or isinstance(value, bool | str | torch.dtype):
            yield field.name, value
        elif field.name in ("batch", "rows"):
            yield field.name, value == 0


def facts(op: str, case: str, dtype: torch.dtype) -> set[tuple]:
    """Returns the case, and every pair of the dtype and a choice of the case."""
    return {(op, case), (op, dtype)} | {(op, dtype, *choice) for choice in choices(MODULES[op].CASES[case])}


def interpreted(op: str, case: str, dtype: torch.dtype) -> set[tuple]:
    """Returns the case and the dtype, and nothing for cases that take the interpreter long."""
    return set() if (op, case) in COSTLY else {(op, case), (op, dtype)}


def name(op: str, case: str, dtype: torch.dtype) -> str:
    return f"{op}-{case}-{str(dtype).removeprefix('torch.')}"


@pytest.fixture
def check(check_op, check_bits, run_triton):
    """Returns `check(backend, op, case, dtype)`, which makes the comparison that fits the op."""

    def run(backend: str, op: str, case: str, dtype: torch.dtype) -> None:
        made = MODULES[op].CASES[case]
        if op == "mean_fill":
            require(backend)
            functions = {"cpp": lambda args: OPS[op].overload(*args), "triton": lambda args: run_triton(op, args)}
            check_fill(functions[backend], made, dtype)
        elif getattr(MODULES[op], "SAME_BITS", False) or (op == "mask_token" and made.mode != "gated"):
            check_bits(op, backend, made, dtype)
        else:
            check_op(op, backend, made, dtype)

    return run


@pytest.mark.parametrize(("op", "case", "dtype"), covering(rows(), facts, name))
def test_cpp(check, op, case, dtype):
    check("cpp", op, case, dtype)


@pytest.mark.triton
@pytest.mark.parametrize(("op", "case", "dtype"), covering(rows(), interpreted, name))
def test_triton(check, op, case, dtype):
    check("triton", op, case, dtype)
