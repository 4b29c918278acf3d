"""Fuzz tests for a GPU: each op's own check on its named shapes, with random batches and values.

On a GPU a kernel with new constants takes a second to compile, so shapes are few. `tests.campaign.fuzz --device cuda`
runs 10,000 examples of each op.
"""

import contextlib
import importlib
import inspect
import os
from dataclasses import fields, replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.ops import DTYPES
from fastmim_kernels import OPS
from tests.campaign.fuzz import FUZZED

IDS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5)


@st.composite
def any_case(draw, case):
    """Draws a variant of the case, with other numbers where they are no constants of a kernel."""
    if hasattr(case, "forward"):
        return replace(case, forward=draw(any_case(case.forward)))
    names, changes = {field.name for field in fields(case)}, {}
    if "batch" in names:
        changes["batch"] = draw(st.integers(0, 4)) * getattr(case, "average", 1)
    if "planes" in names:
        changes["planes"] = draw(st.integers(0, 6))
    if "factor" in names:
        changes["factor"] = draw(st.floats(-2, 2, width=32))
    if "seed" in names:
        changes |= {"seed": draw(st.integers(0, 2**64 - 1)), "first_id": draw(st.integers(0, 2**63 - 100))}
    # Number of wanted patches, up to all patches.
    if isinstance(getattr(case, "rows", None), int) and "patch" in names:
        grid = getattr(case, "grid", None) or tuple(n // case.patch for n in case.size)
        changes["rows"] = draw(st.integers(0, changes["batch"] * grid[0] * grid[1]))
    return replace(case, **changes)


@st.composite
def any_call(draw, op: str) -> tuple[dict, int]:
    """Draws the arguments of the op's own fuzz test, and the seed of its values."""
    seed = draw(st.integers(0, 2**32 - 1))
    if op == "philox":
        numbers = {"seed": draw(st.integers(0, 2**64 - 1)), "stream": draw(st.integers(0, 2**32 - 1))}
        return numbers | {
            "ids": torch.tensor(draw(IDS), dtype=torch.int64),
            "n": draw(st.sampled_from([1, 6, 37])),
        }, seed
    cases = importlib.import_module(f"fastmim_kernels.{op}.cases")
    shapes = [case for case in cases.CASES.values() if getattr(case, "memory", "") != "constant"]
    given = {"case": draw(any_case(draw(st.sampled_from(shapes))))}
    if "bf16" in cases.BENCH_DTYPES:
        given["dtype"] = draw(st.sampled_from([DTYPES[name] for name in ("fp32", "bf16", "fp16")]))
    return given, seed


@pytest.mark.triton
@pytest.mark.parametrize("op", FUZZED)
def test_fuzz(op, check_op, check_bits, run_triton):
    test = importlib.import_module(f"tests.kernels.test_{op}")
    check = test.test_fuzz_triton.hypothesis.inner_test
    fixtures = {"check_op": check_op, "check_bits": check_bits, "run_triton": run_triton}
    fixtures = {name: fixtures[name] for name in inspect.signature(check).parameters if name in fixtures}
    values = [
        importlib.import_module(f"fastmim_kernels.{name}.cases") for name in OPS if name in (op, f"{op}_backward")
    ]
    modules = [m for m in (*values, test) if "seed" in inspect.signature(getattr(m, "inputs", len)).parameters]

    # The interpreter is slow and has its own fuzz tests; here it only shows that this test runs.
    @settings(max_examples=2 if os.environ.get("TRITON_INTERPRET") == "1" else settings.default.max_examples)
    @given(call=any_call(op))
    def run(call):
        arguments, seed = call
        with contextlib.ExitStack() as stack:
            for module in modules:
                stack.enter_context(mock.patch.object(module, "inputs", seeded(module.inputs, seed)))
            check(**fixtures, **arguments)

    run()


def seeded(inputs, seed: int):
    """Returns the maker of a case's inputs with another default seed."""
    return lambda case, dtype, device="cpu", seed=seed: inputs(case, dtype, device, seed)
