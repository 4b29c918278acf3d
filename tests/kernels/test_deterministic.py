"""Results and gradients have the same bits in twenty runs, whatever the number of threads."""

import importlib

import pytest
import torch

from bench.ops import DTYPES
from bench.ops.speed import gradient
from fastmim_kernels import OPS, require

RUNS = 20


def values(op: str, case, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """What the op returns and changes, and what its function in the benchmark gives with the gradient of that."""
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
    # Of window attention one with a table: where it comes from an MLP, torch makes it, in another order per thread.
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
