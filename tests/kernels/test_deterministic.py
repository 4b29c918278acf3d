"""Tests that results and gradients have the same bits in twenty runs, for any number of threads."""

import importlib

import pytest
import torch

from bench.ops import DTYPES
from bench.ops.speed import gradient
from fastmim_kernels import OPS, require

RUNS = 20


def values(op: str, case, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """Returns what the op returns and changes, and result and gradient of its function in the benchmark."""
    cases = importlib.import_module(f"fastmim_kernels.{op}.cases")
    args = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in cases.inputs(case, dtype, device)]
    returned = OPS[op].overload(*args)
    found = [*args, *(returned if isinstance(returned, tuple) else (returned,))]
    x, functions = cases.functions(case, dtype, device)
    result = functions["ours"](x)
    if (grad := gradient(result)) is not None:
        result.backward(grad)
        found += [result.detach(), x.grad]
    return [value for value in found if isinstance(value, torch.Tensor)]


def check(op: str, device: str) -> None:
    cases = importlib.import_module(f"fastmim_kernels.{op}.cases")
    # For window attention, a case with a table: torch computes tables of an MLP in an order that depends on threads.
    small = next(case for case in cases.CASES.values() if getattr(case, "places", "window") == "window")
    case = next((case for label, case in cases.BENCH.items() if "batch 8" in label), small)
    dtype = DTYPES[cases.BENCH_DTYPES[-1]]
    expected, before = values(op, case, dtype, device), torch.get_num_threads()
    try:
        for run in range(1, RUNS):
            torch.set_num_threads(1 + run % 3)
            again = values(op, case, dtype, device)
            assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True)), run
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("op", OPS)
def test_cpp(op):
    require("cpp")
    check(op, "cpu")


@pytest.mark.triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="on a GPU; an interpreter has one order only")
@pytest.mark.parametrize("op", OPS)
def test_gpu(op):
    check(op, "cuda")
