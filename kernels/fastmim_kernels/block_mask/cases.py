"""Named inputs of block_mask, for its tests (few images) and its benchmark (real sizes)."""

from dataclasses import dataclass, replace

import torch

from .._targets import Targets
from ..philox import signed_seed
from . import block_mask, reference


@dataclass(frozen=True)
class Case:
    batch: int
    rows: int
    columns: int
    side: int
    seed: int = 0
    stream: int = 3
    first_id: int = 0


_SIMMIM_SWIN = Case(batch=256, rows=6, columns=6, side=1)
_SIMMIM_VIT = Case(batch=256, rows=14, columns=14, side=2)
_LSMAE = Case(batch=256, rows=28, columns=28, side=2)

BENCH_DTYPES = ("int64",)
BENCH = {
    "simmim_swin 192": _SIMMIM_SWIN,
    "simmim_vit 224": _SIMMIM_VIT,
    "simmim_vit 224 batch 64": replace(_SIMMIM_VIT, batch=64),
    "lsmae 448": _LSMAE,
}

CASES = {
    "simmim_swin": replace(_SIMMIM_SWIN, batch=3),
    "simmim_vit": replace(_SIMMIM_VIT, batch=2),
    "lsmae": replace(_LSMAE, batch=1),
    "over_both_edges": Case(4, 7, 11, 3),
    "over_one_edge": Case(4, 6, 5, 2),
    "one_block": Case(3, 4, 4, 4),
    "larger_than_the_grid": Case(3, 2, 3, 7),
    "largest_side": Case(3, 2, 3, 2**31 - 1),
    "one_patch": Case(3, 1, 1, 1),
    "column": Case(3, 13, 1, 2),
    "primes": Case(3, 17, 23, 5, seed=7, stream=5),
    "large_seed": Case(3, 8, 8, 2, seed=2**63 + 5, stream=2**32 - 1),
    "largest_id": Case(2, 13, 5, 1, seed=2**64 - 1, first_id=2**63 - 2),
    "no_images": Case(0, 14, 14, 2),
}

VARIANTS = {
    "36 blocks of 1 x 1": (Case(1, 6, 6, 1), torch.int64),
    "49 blocks of 2 x 2": (Case(1, 14, 14, 2), torch.int64),
    "196 blocks of 2 x 2": (Case(1, 28, 28, 2), torch.int64),
    "2048 blocks of 2 x 2": (Case(1, 64, 128, 2), torch.int64),
}
PER_IMAGE = (2,)
TARGETS = (Targets("Masks of blocks, one thread"),)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu") -> tuple:
    """Returns the arguments of `torch.ops.fastmim.block_mask`, equal on every device.

    dtype: int64, the only one.
    """
    ids = case.first_id + torch.arange(case.batch, dtype=dtype, device=device)
    return signed_seed(case.seed), case.stream, ids, case.rows, case.columns, case.side


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided: the ids read, the order written."""
    return case.batch * (1 + case.rows * case.columns) * dtype.itemsize


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the ids, and the functions of the ids that the benchmark runs.

    official: `MaskGenerator` of SimMIM's data_simmim.py, for a whole batch.
    """
    seed, stream, ids, rows, columns, side = inputs(case, dtype, device)
    cells = (-(-rows // side), -(-columns // side))

    def official(ids):
        order = torch.rand(len(ids), cells[0] * cells[1], device=device).argsort(dim=1)
        mask = torch.zeros_like(order).scatter_(1, order[:, : -(-6 * order.shape[1] // 10)], 1)
        return mask.view(-1, *cells).repeat_interleave(side, 1).repeat_interleave(side, 2)

    return ids, {
        "ours": lambda ids: block_mask(case.seed, stream, ids, rows, columns, side),
        "reference": lambda ids: reference.block_mask(seed, stream, ids, rows, columns, side),
        "official": official,
    }
