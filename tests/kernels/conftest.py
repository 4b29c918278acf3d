"""Comparisons of implementations with references, as fixtures, so that no test imports another.

Triton's kernels run on a GPU or in Triton's interpreter, which has to be on before triton is imported:
`TRITON_INTERPRET=1 python -m pytest`. Without both, tests marked `triton` are deselected.
"""

import importlib
import os

import pytest
import torch

import fastmim_kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_configure(config):
    config.addinivalue_line("markers", "triton: runs Triton kernels, in the interpreter or on a GPU")


def pytest_collection_modifyitems(config, items):
    if INTERPRETED or torch.cuda.is_available():
        return
    deselected = [item for item in items if item.get_closest_marker("triton")]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if not item.get_closest_marker("triton")]


def outputs(op, function, args) -> list[torch.Tensor]:
    """Returns what a call returns and what it changes in place, and leaves the arguments alone."""
    args = [arg.clone() if isinstance(arg, torch.Tensor) and arg.is_contiguous() else arg for arg in args]
    returned = function(*args)
    changed = [
        arg for arg, slot in zip(args, op.overload._schema.arguments, strict=True) if slot.alias_info is not None
    ]
    if isinstance(returned, torch.Tensor):
        returned = (returned,)
    return [*(returned or ()), *changed]


def is_float(arg) -> bool:
    return isinstance(arg, torch.Tensor) and arg.is_floating_point()


def double(arg):
    return arg.double() if is_float(arg) else arg


@pytest.fixture(scope="session")
def check_op():
    """Returns `check_op(name, backend, case, dtype)`, a comparison with the float64 reference.

    The error may be at most twice the error of the reference in `dtype`, plus one millionth of the largest value.
    Integers must be equal. Triton's interpreter truncates bfloat16 where a GPU rounds: there the bounds are four times
    and 2^-7.

    Options of the comparison:
        sums: the op adds up products of its arguments. The largest value is then taken from the same sums of absolute
            values, since the terms of a sum may cancel.
        terms: size of the terms whose differences are the results. It replaces the largest value if it is larger.
    """

    def check(name: str, backend: str, case, dtype: torch.dtype, sums: bool = False, terms: float = 0) -> None:
        fastmim_kernels.require(backend)
        op = fastmim_kernels.OPS[name]
        make = importlib.import_module(f"fastmim_kernels.{name}.cases").inputs
        device, function = "cpu", op.overload
        if backend == "triton":
            device = "cpu" if INTERPRETED else "cuda"
            function = importlib.import_module(f"fastmim_kernels.{name}.cuda").launch
        args = make(case, dtype)
        exact = outputs(op, op.reference, [double(arg) for arg in args])
        sizes = exact
        if sums:
            sizes = outputs(op, op.reference, [arg.abs() if is_float(arg) else arg for arg in map(double, args)])
        low = outputs(op, op.reference, args)
        ours = outputs(op, function, make(case, dtype, device))
        assert len(exact) == len(low) == len(ours) > 0
        for e, size, r, o in zip(exact, sizes, low, ours, strict=True):
            assert (o.shape, o.dtype) == (r.shape, r.dtype)
            if not e.is_floating_point():
                assert torch.equal(o.cpu(), e), f"{name} {backend} {case}: {(o.cpu() != e).sum()} differ"
                continue
            if not e.numel():
                continue
            assert torch.equal(o.cpu().isnan(), e.isnan())
            e = e.nan_to_num()
            error, allowed = ((x.cpu().double().nan_to_num() - e).abs().max().item() for x in (o, r))
            cut = backend == "triton" and INTERPRETED and torch.bfloat16 in (dtype, o.dtype)
            factor, least = (4, 2**-7) if cut else (2, 1e-6)
            largest = max(terms, size.nan_to_num().abs().max().item())
            assert error <= factor * allowed + least * largest, f"{name} {backend} {case}: error {error}"

    return check


@pytest.fixture(scope="session")
def run_triton():
    """Returns `run_triton(name, args)`, which returns the result of the Triton kernels as CPU tensors."""

    def run(name: str, args):
        launch = importlib.import_module(f"fastmim_kernels.{name}.cuda").launch
        device = "cpu" if INTERPRETED else "cuda"
        return launch(*(arg.to(device) if isinstance(arg, torch.Tensor) else arg for arg in args)).cpu()

    return run


@pytest.fixture(scope="session")
def check_bits(run_triton):
    """Returns `check_bits(name, backend, case, dtype)`, for ops that copy or round once.

    Triton's interpreter truncates bfloat16 where a GPU rounds: there the last bit may differ.
    """

    def check(name: str, backend: str, case, dtype: torch.dtype) -> None:
        fastmim_kernels.require(backend)
        op = fastmim_kernels.OPS[name]
        args = importlib.import_module(f"fastmim_kernels.{name}.cases").inputs(case, dtype)
        expected = op.reference(*args)
        ours = run_triton(name, args) if backend == "triton" else op.overload(*args)
        assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
        if backend == "triton" and INTERPRETED and ours.dtype == torch.bfloat16:
            torch.testing.assert_close(ours, expected, rtol=2**-7, atol=0)
        else:
            assert torch.equal(ours, expected), f"{name} {backend} {case}"

    return check
