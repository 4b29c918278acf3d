"""Named inputs of uniform_mask, for its tests (few images) and its benchmark (real sizes)."""

from dataclasses import dataclass, replace

import torch

from .._targets import Targets
from ..philox import signed_seed
from . import reference, uniform_mask


@dataclass(frozen=True)
class Case:
    batch: int
    rows: int
    columns: int
    kept: int
    stratified: bool = True
    seed: int = 0
    stream: int = 3
    secondary_stream: int = 6
    first_id: int = 0


_UM_MAE = Case(batch=256, rows=16, columns=16, kept=48)

BENCH_DTYPES = ("int64",)
BENCH = {
    "um_mae 256": _UM_MAE,
    "um_mae 256 iid": replace(_UM_MAE, stratified=False),
    "um_mae 256 without secondary masking": replace(_UM_MAE, kept=64),
    "um_mae 256 batch 64": replace(_UM_MAE, batch=64),
    "um_mae 224": replace(_UM_MAE, rows=14, columns=14, kept=36),
}

_DRAWS = {
    "um_mae": replace(_UM_MAE, batch=3),
    "no_secondary": replace(_UM_MAE, batch=2, kept=64),
    "odd_number_of_blocks": Case(5, 14, 14, 36),
    "one_block": Case(9, 2, 2, 1),
    "two_blocks": Case(9, 2, 4, 1),
    "column": Case(4, 26, 2, 7),
    "primes": Case(3, 22, 34, 113, seed=7, stream=5),
    "large_seed": Case(3, 8, 12, 20, seed=2**63 + 5, stream=2**32 - 1, secondary_stream=2**31),
    "largest_id": Case(2, 6, 10, 1, seed=2**64 - 1, first_id=2**63 - 2),
    "no_images": Case(0, 16, 16, 48),
}
CASES = _DRAWS | {f"{name}_iid": replace(case, stratified=False) for name, case in _DRAWS.items()}

VARIANTS = {
    f"{n} x {n} patches, {'stratified' if stratified else 'iid'}": (Case(1, n, n, n**2 // 5, stratified), torch.int64)
    for n, stratified in ((16, True), (16, False), (14, True), (32, True), (64, True))
}
PER_IMAGE = (3,)
TARGETS = (Targets("Uniform masks, one thread", cpu={"us": 1.5}),)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu") -> tuple:
    """Returns the arguments of `torch.ops.fastmim.uniform_mask`, equal on every device.

    dtype: int64, the only one.
    """
    ids = case.first_id + torch.arange(case.batch, dtype=dtype, device=device)
    streams = (case.stream, case.secondary_stream)
    return signed_seed(case.seed), *streams, ids, case.rows, case.columns, case.kept, case.stratified


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided: the ids read, both masks written."""
    patches = case.rows * case.columns
    return case.batch * ((1 + patches) * dtype.itemsize + patches // 4)


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the ids, and the functions of the ids that the benchmark runs.

    official: draws from the same distribution for a whole batch with torch's generator. mask_transform.py draws each
    image's mask with NumPy in the loader instead. Hidden patches and the secondary mask follow models_mae_swin.py.
    """
    seed, stream, secondary_stream, ids, rows, columns, kept, stratified = inputs(case, dtype, device)
    num_keep = rows * columns // 4
    pool = torch.arange(4, device=device).repeat_interleave(-(-num_keep // 2))

    def official(ids):
        noise = torch.rand(len(ids), len(pool), device=device)
        corner = pool[noise.argsort(dim=1)[:, :num_keep]]
        blocks = torch.nn.functional.one_hot(corner, 4).view(-1, rows // 2, columns // 2, 2, 2)
        visible = blocks.transpose(2, 3).reshape(len(ids), rows * columns).bool()
        keep, hidden = (x.nonzero()[:, 1].view(len(ids), -1) for x in (visible, ~visible))
        restore = torch.rand(len(ids), num_keep, device=device).argsort(dim=1).argsort(dim=1)
        return torch.cat([keep, hidden], dim=1), restore >= kept

    return ids, {
        "ours": lambda ids: uniform_mask(
            case.seed, stream, secondary_stream, ids, rows, columns, kept, stratified=stratified
        ),
        "reference": lambda ids: reference.uniform_mask(
            seed, stream, secondary_stream, ids, rows, columns, kept, stratified
        ),
        "official": official,
    }
