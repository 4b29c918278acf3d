"""Counter-based random numbers, the only source of randomness for order, crops, flips and masks.

A draw is a pure function of (seed, stream, sample id). It is the same on any device, in any process layout and after
any restart, and no generator state has to be saved.
"""

import torch
from torch import Tensor

from .. import _op
from . import reference


def philox(seed: int, stream: int, ids: Tensor, n: int) -> Tensor:
    """Draws `n` uniform 32-bit integers for each id with Philox 4x32-10 (Salmon et al., SC 2011).

    The key is `seed`. The counter is (block, low word of the id, high word of the id, stream) for block = 0, ...,
    ceil(n / 4) - 1.

    Args:
        seed: 0 <= seed < 2**64.
        stream: purpose of the numbers, 0 <= stream < 2**32. Different streams are independent.
        ids: (B,) int64.
        n: draws per id.
    Returns: (B, n) int64 with values in [0, 2**32), since torch has no arithmetic on uint32.
    Raises:
        ValueError: an argument is out of range, or `ids` has another shape or dtype.
    """
    seed = signed_seed(seed)
    check_draw(stream, ids, n)
    if _op.using_reference():
        return reference.philox(seed, stream, ids, n)
    return OP.overload(seed, stream, ids, n)


def uniform(seed: int, stream: int, ids: Tensor, n: int) -> Tensor:
    """Returns `philox` scaled to [0, 1): (B, n) float64, multiples of 2**-32."""
    return philox(seed, stream, ids, n).double() * 2.0**-32


def signed_seed(seed: int) -> int:
    """Returns the 64 bits of a seed as a signed integer, the only kind that an op schema takes."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 0 <= seed < 2**64, got {seed}")
    return seed - (seed >> 63 << 64)


def check_draw(stream: int, ids: Tensor, n: int) -> None:
    """Checks the arguments of a draw of `n` words per id.

    Raises:
        ValueError: an argument is out of range, or `ids` has another shape or dtype.
    """
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream: expected 0 <= stream < 2**32, got {stream}")
    if ids.ndim != 1 or ids.dtype != torch.int64:
        raise ValueError(f"ids: expected (B,) int64, got {tuple(ids.shape)} {ids.dtype}")
    if not 0 <= n <= 2**34:
        raise ValueError(f"expected 0 to 2**34 draws for each id, 4 for each value of a 32-bit counter, got {n}")


def _fake(seed, stream, ids, n):
    check_draw(stream, ids, n)
    return ids.new_empty(len(ids), n)


OP = _op.register("philox(int seed, int stream, Tensor ids, int n) -> Tensor", reference=reference.philox, fake=_fake)
