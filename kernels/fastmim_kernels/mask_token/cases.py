"""Named inputs of mask_token, for its tests and its benchmark."""

from dataclasses import dataclass, replace

import torch

from .._targets import MOVES
from . import mask_token, reference


@dataclass(frozen=True)
class Case:
    batch: int
    size: tuple[int, int]
    cells: tuple[int, int]
    dim: int
    mode: str = "replace"
    """Mode: "replace", "add", or "gated" ("add" with a gamma)."""
    params: torch.dtype | None = None
    """Type of token and gamma; None = the type of x."""
    layout: str = "contiguous"
    """Memory layout: "contiguous", "strided" or "channels_first".

    "strided": x and hidden are views with gaps. "channels_first": x is a permuted view of a (B, D, H, W) map.
    """


_SWIN_B = Case(batch=32, size=(48, 48), cells=(6, 6), dim=128)
_RESNET = Case(batch=32, size=(14, 14), cells=(7, 7), dim=1024, mode="add")
_VIT = Case(batch=32, size=(1, 196), cells=(1, 196), dim=768)

BENCH_DTYPES = ("fp32", "bf16")
BENCH = {
    "simmim_swin_b 192": _SWIN_B,
    "simmim_swin_b 192 float parameters": replace(_SWIN_B, params=torch.float32),
    "simmim_vit_b 224": _VIT,
    "a2mim_resnet50 224": _RESNET,
    "a2mim_resnet50 224 gated": replace(_RESNET, mode="gated"),
}

_SMALL = Case(batch=2, size=(6, 8), cells=(3, 4), dim=24)
_MODES = {
    "swin": replace(_SWIN_B, batch=1, size=(12, 12), cells=(3, 3)),
    "float_params": replace(_SMALL, params=torch.float32),
    "half_params": replace(_SMALL, params=torch.bfloat16),
    "sequence": replace(_SMALL, size=(1, 37), cells=(1, 37), dim=131),
    "cells_as_large_as_the_map": replace(_SMALL, cells=(1, 1)),
    "one_value": Case(1, (1, 1), (1, 1), 1),
    "primes": Case(3, (5, 21), (5, 7), 29),
    "strided": replace(_SMALL, layout="strided"),
    "channels_first": replace(_SMALL, layout="channels_first"),
    "no_images": replace(_SMALL, batch=0),
}
CASES = {
    f"{name} {mode}": replace(case, mode=mode) for name, case in _MODES.items() for mode in ("replace", "add", "gated")
}

_STAGE = Case(batch=1, size=(56, 56), cells=(7, 7), dim=128, params=torch.float32)
VARIANTS = {
    "fp32 replace": (_STAGE, torch.float32),
    "fp32 gated": (replace(_STAGE, mode="gated"), torch.float32),
    "bf16 replace": (_STAGE, torch.bfloat16),
    "bf16 add": (replace(_STAGE, mode="add"), torch.bfloat16),
    "bf16 gated": (replace(_STAGE, mode="gated"), torch.bfloat16),
}
PER_IMAGE = (0, 1)
TARGETS = (MOVES,)


def tensors(case: Case, dtype: torch.dtype, device: str, seed: int) -> tuple:
    """Returns x, hidden, token, gamma (or None) and a gradient of the result, equal on every device."""
    generator = torch.Generator().manual_seed(seed)
    (height, width), gap, params = case.size, 1 + (case.layout == "strided"), case.params or dtype
    x, grad = (torch.randn(case.batch, height, width, gap * case.dim, generator=generator) for _ in range(2))
    hidden = torch.rand(case.batch, case.cells[0], gap * case.cells[1], generator=generator) < 0.6
    token, gamma = (torch.randn(case.dim, generator=generator).to(device, params) for _ in range(2))
    x, grad = (value.to(device, dtype)[..., ::gap] for value in (x, grad))
    if case.layout == "channels_first":
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    return x, hidden.to(device)[:, :, ::gap], token, gamma if case.mode == "gated" else None, grad


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.mask_token`, equal on every device.

    dtype: type of x.
    """
    return *tensors(case, dtype, device, seed)[:-1], case.mode != "replace"


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided, forward and backward.

    Forward, x is read and the result is written; in mode "replace" only the visible cells of x are read. Backward, see
    mask_token_backward.
    """
    hidden = inputs(case, torch.float32)[1].float().mean().item()
    values = case.batch * case.size[0] * case.size[1] * case.dim * dtype.itemsize
    return int(values * (2 - hidden if case.mode == "replace" else 2)) + bytes_moved_backward(case, dtype)


def bytes_moved_backward(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that the backward pass cannot avoid.

    The incoming gradient is read and the gradient of x written. If the token is added, both gradients are the same
    tensor, and only its hidden part is read, for the gradient of the token. With gamma, x in hidden cells is read too.
    """
    hidden = inputs(case, torch.float32)[1].float().mean().item()
    values = case.batch * case.size[0] * case.size[1] * case.dim * dtype.itemsize
    return int(values * {"replace": 2, "add": hidden, "gated": 2 + hidden}[case.mode])


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns x, and the functions of x that the benchmark runs.

    official: mixes with a map of floats, as in SimMIM's simmim.py.
    """
    x, hidden, token, gamma, add = inputs(case, dtype, device)
    for parameter in (token, gamma):
        if parameter is not None:
            parameter.requires_grad_()

    def official(x):
        where = reference.enlarge(hidden, x).to(x.dtype)
        value = token.to(x.dtype).expand_as(x)
        if add:
            return x * (1 - where) + ((x if gamma is None else gamma.to(x.dtype) * x) + value) * where
        return x * (1 - where) + value * where

    return x.requires_grad_(), {
        "ours": lambda x: mask_token(x, hidden, token, gamma, add=add),
        "reference": lambda x: reference.mask_token(x, hidden, token, gamma, add),
        "official": official,
    }
