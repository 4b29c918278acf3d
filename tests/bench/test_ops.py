"""Every op's benchmark can be run: all its functions, forward and backward, on its first case."""

import importlib

import pytest
import torch

from bench import ops
from fastmim_kernels import OPS


@pytest.mark.parametrize("name", OPS)
def test_functions_run(name):
    cases = importlib.import_module(f"fastmim_kernels.{name}.cases")
    case = next((case for case in cases.BENCH if "batch 8" in case), next(iter(cases.BENCH)))
    dtype = ops.DTYPES[cases.BENCH_DTYPES[0]]
    x, functions = cases.functions(cases.BENCH[case], dtype, "cpu")
    assert {"ours", "reference"} <= set(functions)
    grad = ops.gradient(functions["ours"](x))
    for function in functions.values():
        ops.forward_backward(function, x, grad)
        assert grad is None or torch.isfinite(x.grad).all()
    assert cases.bytes_moved(cases.BENCH[case], dtype) >= 0
    assert ops.error(OPS[name], cases.inputs(cases.BENCH[case], dtype)) < 1e-4
