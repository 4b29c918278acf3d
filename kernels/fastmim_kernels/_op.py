"""Registration of ops, and the choice among their implementations.

An op is one schema with several implementations: the reference in plain torch (the default on every device), C++ for
CPU tensors (in `_cpu.so`, if it was built), and Triton for CUDA tensors (imported on first use).
"""

import importlib
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from . import _library

_LIBRARY = torch.library.Library("fastmim", "DEF")


@dataclass(frozen=True)
class Op:
    """Registered op. Its folder is `fastmim_kernels/<name>`."""

    name: str
    overload: Callable
    """The callable `torch.ops.fastmim.<name>.default`, which picks the implementation by device."""
    reference: Callable
    """The default implementation. Takes the arguments of the schema."""


OPS: dict[str, Op] = {}
"""All registered ops by name."""


@dataclass
class _State:
    """Process-wide state of the package."""

    library_problem: str | None = None
    """Reason why the C++ implementations are missing; None = they are loaded."""
    reference: bool = False
    """True if public functions run their references."""


_state = _State()


def register(
    schema: str,
    *,
    reference: Callable,
    fake: Callable,
    backward: Callable | None = None,
    setup_context: Callable | None = None,
) -> Op:
    """Registers one op with all its implementations.

    Args:
        schema: e.g. `"gather(Tensor x, Tensor ids) -> Tensor"`.
        reference: the op in plain torch.
        fake: returns empty results with the right shapes, dtypes and device. Raises the errors of the public function.
        backward: see `torch.library.register_autograd`. Without it, a backward pass raises RuntimeError.
        setup_context: see `torch.library.register_autograd`.
    Returns: the registered op.
    """
    name = schema[: schema.index("(")]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    if importlib.util.find_spec("triton"):
        _LIBRARY.impl(name, partial(_launch, name), "CUDA")
    torch.library.register_fake(f"fastmim::{name}", fake, lib=_LIBRARY)
    if "!" not in schema:  # torch refuses a gradient formula for an op that changes its arguments
        backward = backward or partial(_no_backward, name)
        torch.library.register_autograd(f"fastmim::{name}", backward, setup_context=setup_context, lib=_LIBRARY)
    OPS[name] = Op(name, getattr(torch.ops.fastmim, name).default, reference)
    return OPS[name]


def _no_backward(name: str, *_):
    raise RuntimeError(
        f"fastmim::{name} has no gradient; call fastmim_kernels.use_reference() for derivatives of higher order"
    )


def _launch(name: str, *args):
    # Triton launches on the current device, which may not be the device of the tensors.
    with torch.cuda.device_of(next(arg for arg in args if isinstance(arg, torch.Tensor))):
        return _launcher(name)(*args)


def _launcher(name: str) -> Callable:
    return importlib.import_module(f"fastmim_kernels.{name}.cuda").launch


def load_library() -> None:
    """Loads the C++ implementations. Logs one line with the reason if there are none."""
    _state.library_problem = _library.problem("_cpu")
    if not _state.library_problem:
        try:
            torch.ops.load_library(_library.path("_cpu"))
        except OSError as error:
            _state.library_problem = f"the C++ library does not load: {error}; to rebuild it, {_library.BUILD}"
    if _state.library_problem:
        logging.getLogger("fastmim_kernels").warning("CPU ops run on the slow references: %s", _state.library_problem)


def use_reference(on: bool = True) -> None:
    """Switches all public functions to their references in plain torch, or back."""
    _state.reference = on


def using_reference() -> bool:
    """True if `use_reference` is on."""
    return _state.reference


def _has(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fastmim::{name}", key)


def backends() -> dict[str, dict[str, str]]:
    """Returns the implementation that runs, by op and device: "cpp", "triton" or "reference"."""
    table = {}
    for name in OPS:
        table[name] = {
            "cpu": "cpp" if _has(name, "CPU") and not using_reference() else "reference",
            "cuda": "triton" if _has(name, "CUDA") and not using_reference() else "reference",
        }
    return table


def require(backend: str) -> None:
    """Checks that every op has an implementation, for tests and benchmarks.

    Args:
        backend: "cpp" or "triton".
    Raises:
        RuntimeError: some op lacks the implementation. The message says why and what to do.
        ValueError: `backend` is neither "cpp" nor "triton".
    """
    if backend == "cpp":
        if _state.library_problem:
            raise RuntimeError(_state.library_problem)
        missing = [name for name in OPS if not _has(name, "CPU")]
        if missing:
            raise RuntimeError(
                f"the C++ library is older than its sources and lacks {missing}; to rebuild it, {_library.BUILD}"
            )
    elif backend == "triton":
        for name in OPS:
            try:
                _launcher(name)
            except ImportError as error:
                raise RuntimeError(
                    f"Triton kernel of {name} does not load: {error}; run `pip install triton` (Linux only)"
                ) from error
    else:
        raise ValueError(f'expected "cpp" or "triton", got {backend!r}')
