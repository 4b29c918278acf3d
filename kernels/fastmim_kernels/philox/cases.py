"""Named inputs of philox, for its tests and its benchmark."""

from dataclasses import dataclass

import torch

from .._targets import PARTS
from . import philox, reference, signed_seed


@dataclass(frozen=True)
class Case:
    batch: int
    n: int
    seed: int = 0
    stream: int = 1
    ids: str = "epochs"
    """Sample ids: "epochs" = ids of a run, below and above 2**32; "edges" = values around integer limits.

    The limits are those of signed and unsigned 32-bit, and of signed 64-bit integers.
    """


BENCH_DTYPES = ("int64",)
BENCH = {
    "crops of a batch of 64": Case(64, 40),
    "noise of 256 vit_b/16 images": Case(256, 196, stream=3),
    "order of 16,384 images": Case(2**14, 2, stream=0),
}

CASES = {
    "crops": Case(5, 40),
    "flips": Case(7, 1, stream=2),
    "order": Case(70, 2, stream=0),
    "noise": Case(3, 196, stream=3),
    "primes": Case(13, 37, seed=12345),
    "large_seed": Case(3, 9, seed=2**63 + 17),
    "largest_seed_and_stream": Case(3, 9, seed=2**64 - 1, stream=2**32 - 1, ids="edges"),
    "key_words": Case(4, 6, seed=1 << 32, stream=2**31, ids="edges"),
    "one": Case(1, 1),
    "no_ids": Case(0, 5),
    "no_draws": Case(3, 0),
}

_EDGES = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1])

VARIANTS = {f"{n} words": (Case(3, n), torch.int64) for n in (1, 2, 40, 196)}
PER_IMAGE = (2,)
TARGETS = (PARTS,)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu") -> tuple:
    """Returns the arguments of `torch.ops.fastmim.philox`, equal on every device.

    dtype: int64, the only one.
    """
    index = torch.arange(case.batch, dtype=dtype)
    ids = _EDGES[index % len(_EDGES)] if case.ids == "edges" else index + (index % 3 * 256 << 32)
    return signed_seed(case.seed), case.stream, ids.to(device), case.n


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided: the ids read, the draws written."""
    return case.batch * (1 + case.n) * dtype.itemsize


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the ids, and the functions of the ids that the benchmark runs."""
    seed, stream, ids, n = inputs(case, dtype, device)
    return ids, {
        "ours": lambda ids: philox(case.seed, stream, ids, n),
        "reference": lambda ids: reference.philox(seed, stream, ids, n),
    }
