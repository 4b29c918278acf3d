"""Tests that the sanitizer's calls reach every kernel, counted in Triton's interpreter."""

import collections
import importlib
import os

import pytest

from bench.ops import sanitize
from fastmim_kernels import OPS


@pytest.mark.triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="counts what the interpreter runs")
@pytest.mark.parametrize("op", OPS)
def test_every_kernel_is_reached(op, monkeypatch):
    from triton.runtime.interpreter import InterpretedFunction

    count, run = collections.Counter(), InterpretedFunction.run

    def counted(kernel, *args, **options):
        count[kernel.fn] += 1
        return run(kernel, *args, **options)

    monkeypatch.setattr(InterpretedFunction, "run", counted)
    module = importlib.import_module(f"fastmim_kernels.{op}.cuda")
    kernels = {kernel.fn for _, kernel, *_ in module.compile_only()}
    inputs = importlib.import_module(f"fastmim_kernels.{op}.cases").inputs
    for name, case, dtype in reversed(sanitize.calls()):  # small calls first, and no more than needed
        if name == op and count.keys() != kernels:
            module.launch(*inputs(case, dtype))
    assert count.keys() == kernels and min(count.values()) >= 1
