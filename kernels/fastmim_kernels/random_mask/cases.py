"""Named inputs of random_mask, for its tests (few images) and its benchmark (real sizes)."""

from dataclasses import dataclass, replace

import torch

from .._targets import Targets
from ..philox import signed_seed
from . import random_mask, reference


@dataclass(frozen=True)
class Case:
    batch: int
    num_patches: int
    num_keep: int
    raster: bool = False
    seed: int = 0
    stream: int = 3
    first_id: int = 0


_VIT_B = Case(batch=64, num_patches=196, num_keep=49)
_VIT_H = Case(batch=64, num_patches=256, num_keep=64)

BENCH_DTYPES = ("int64",)
BENCH = {
    "mae_vit_b/16 noise order": _VIT_B,
    "mae_vit_b/16 raster": replace(_VIT_B, raster=True),
    "mae_vit_b/16 noise order batch 256": replace(_VIT_B, batch=256),
    "mae_vit_b/16 raster batch 256": replace(_VIT_B, batch=256, raster=True),
    "mae_vit_h/14 noise order": _VIT_H,
    "mae_vit_h/14 raster": replace(_VIT_H, raster=True),
}

_ORDERS = {
    "vit_b": replace(_VIT_B, batch=2),
    "vit_h": replace(_VIT_H, batch=1),
    "one_patch": Case(3, 1, 1),
    "two_patches": Case(9, 2, 1),
    "keep_all": Case(4, 49, 49),
    "keep_one": Case(4, 49, 1),
    "hide_one": Case(4, 50, 49),
    "primes": Case(3, 113, 31, seed=7, stream=5),
    "large_seed": Case(3, 64, 16, seed=2**63 + 5, stream=2**32 - 1),
    "largest_id": Case(2, 65, 32, seed=2**64 - 1, first_id=2**63 - 2),
    "no_images": Case(0, 196, 49),
}
CASES = _ORDERS | {f"{name}_raster": replace(case, raster=True) for name, case in _ORDERS.items()}

VARIANTS = {
    f"{n} patches, {'raster' if raster else 'noise order'}": (Case(1, n, n // 4, raster), torch.int64)
    for n, raster in ((196, False), (196, True), (1024, True), (4096, False), (4096, True))
}
PER_IMAGE = (2,)
TARGETS = (Targets("Random masks, one thread", cpu={"us": 1}),)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu") -> tuple:
    """Returns the arguments of `torch.ops.fastmim.random_mask`, equal on every device.

    dtype: int64, the only one.
    """
    ids = case.first_id + torch.arange(case.batch, dtype=dtype, device=device)
    return signed_seed(case.seed), case.stream, ids, case.num_patches, case.num_keep, case.raster


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided: the ids read, the order written."""
    return case.batch * (1 + case.num_patches) * dtype.itemsize


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the ids, and the functions of the ids that the benchmark runs.

    official: `random_masking` of MAE's models_mae.py.
    """
    seed, stream, ids, num_patches, num_keep, raster = inputs(case, dtype, device)

    def official(ids):
        noise = torch.rand(len(ids), num_patches, device=device)
        order = torch.argsort(noise, dim=1)
        restore = torch.argsort(order, dim=1)
        mask = torch.ones(len(ids), num_patches, device=device)
        mask[:, :num_keep] = 0
        return order, restore, torch.gather(mask, dim=1, index=restore)

    return ids, {
        "ours": lambda ids: random_mask(case.seed, stream, ids, num_patches, num_keep, raster=raster),
        "reference": lambda ids: reference.random_mask(seed, stream, ids, num_patches, num_keep, raster),
        "official": official,
    }
