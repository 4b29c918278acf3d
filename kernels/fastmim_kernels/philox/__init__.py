"""Counter-based random numbers: the only source of randomness for order, crops, flips and masks.

A draw is a pure function of (seed, stream, sample id), so it is the same on any device, in any process layout and
after any restart, and no generator state is ever saved.
"""

import torch
from torch import Tensor

from .. import _op
from . import reference


def philox(seed: int, stream: int, ids: Tensor, n: int) -> Tensor:
    """Draws `n` uniform 32-bit integers for each id (Philox 4x32-10, Salmon et al., SC 2011).

    The key is `seed`; the counter is (block, id low word, id high word, stream), block = 0 .. ceil(n/4)-1.

    Args:
        seed: 0 <= seed < 2**64.
        stream: what the numbers are for, 0 <= stream < 2**32; different streams are independent.
        ids: (B,) int64, non-negative.
        n: draws per id.
    Returns: (B, n) int64, values in [0, 2**32). (torch has no arithmetic on uint32.)
    Raises:
        ValueError: an argument is out of range, or ids of another shape or dtype.
    """
    seed = signed_seed(seed)
    check(stream, ids, n)
    if _op.using_reference():
        return reference.philox(seed, stream, ids, n)
    return OP.overload(seed, stream, ids, n)


def uniform(seed: int, stream: int, ids: Tensor, n: int) -> Tensor:
    """`philox` scaled to [0, 1): (B, n) float64, multiples of 2**-32."""
    return philox(seed, stream, ids, n).double() * 2.0**-32


def signed_seed(seed: int) -> int:
    """The 64 bits of a seed as an operator's schema takes them, which knows signed integers only."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 0 <= seed < 2**64, got {seed}")
    return seed - (seed >> 63 << 64)


def check(stream: int, ids: Tensor, n: int) -> None:
    """Raises ValueError unless `n` words of `stream` can be drawn for each of `ids`."""
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream: expected 0 <= stream < 2**32, got {stream}")
    if ids.ndim != 1 or ids.dtype != torch.int64:
        raise ValueError(f"ids: expected (B,) int64, got {tuple(ids.shape)} {ids.dtype}")
    if not 0 <= n <= 2**34:
        raise ValueError(f"expected 0 to 2**34 draws for each id, 4 for each value of a 32-bit counter, got {n}")


def _fake(seed, stream, ids, n):
    check(stream, ids, n)
    return ids.new_empty(len(ids), n)


OP = _op.register("philox(int seed, int stream, Tensor ids, int n) -> Tensor", reference=reference.philox, fake=_fake)
