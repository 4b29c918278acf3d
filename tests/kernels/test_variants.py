"""Tests that `VARIANTS` of each op launches what its `compile_only` compiles.

Kernels, types, constants and labels agree.
"""

import importlib
import os

import pytest
import torch

from fastmim_kernels import OPS

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="records, and interprets nothing")

# Constants that depend on the device and on the number of rounds of a loop.
NOT_COMPARED = {"DOT", "ROUNDS"}


def launched(op: str, case, dtype: torch.dtype, monkeypatch) -> list[tuple]:
    """Returns (kernel, types of pointers, constants, warps) of each launch, without launching."""
    from triton.runtime.jit import JITFunction, mangle_type

    found = []

    def run(kernel, *args, grid, warmup, num_warps=4, **constants):
        types = [mangle_type(arg) for arg in args]
        found.append((kernel.fn.__name__, [t for t in types if t[0] == "*"], constants, num_warps))

    monkeypatch.setattr(JITFunction, "run", run)
    cases = importlib.import_module(f"fastmim_kernels.{op}.cases")
    importlib.import_module(f"fastmim_kernels.{op}.cuda").launch(*cases.inputs(case, dtype))
    monkeypatch.undo()
    return found


@pytest.mark.parametrize("op", OPS)
def test_every_compiled_kernel_is_launched(op, monkeypatch):
    calls, labels = importlib.import_module(f"fastmim_kernels.{op}.cases").VARIANTS, []
    for label, kernel, types, constants, warps in importlib.import_module(f"fastmim_kernels.{op}.cuda").compile_only():
        fixed = {key: value for key, value in constants.items() if key not in NOT_COMPARED}
        found = launched(op, *calls[label], monkeypatch)
        found = [(*known, {k: c[k] for k in c.keys() - NOT_COMPARED}, w) for *known, c, w in found]
        assert (kernel.fn.__name__, [t for t in types if t[0] == "*"], fixed, warps) in found, (label, found)
        labels.append(label)
    assert sorted(labels) == sorted(calls)


def test_every_kernel_is_compiled():
    """`compile_only` lists every Triton function of an op that no other function calls."""
    from triton.runtime.jit import JITFunction

    modules = [importlib.import_module(f"fastmim_kernels.{op}.cuda") for op in OPS]
    found = {k.fn for module in modules for k in vars(module).values() if isinstance(k, JITFunction)}
    called = {name for function in found for name in function.__code__.co_names}
    compiled = {kernel.fn for module in modules for _, kernel, *_ in module.compile_only()}
    assert {function for function in found if function.__name__ not in called} <= compiled and len(compiled) > len(OPS)
