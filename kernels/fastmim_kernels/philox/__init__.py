"""Counter-based random numbers: the only source of randomness for order, crops, flips and masks.

A draw is a pure function of (seed, stream, sample id), so it is the same on any device, in any process layout and
after any restart, and no generator state is ever saved.
"""

import torch

from .reference import philox4x32


def philox(seed: int, stream: int, ids: torch.Tensor, n: int) -> torch.Tensor:
    """Draws `n` uniform 32-bit integers for each id (Philox 4x32-10, Salmon et al., SC 2011).

    The key is `seed`; the counter is (block, id low word, id high word, stream), block = 0 .. ceil(n/4)-1.

    Args:
        seed: 0 <= seed < 2**64.
        stream: what the numbers are for, 0 <= stream < 2**32; different streams are independent.
        ids: (B,) int64, non-negative.
        n: draws per id.
    Returns: (B, n) int64, values in [0, 2**32). (torch has no arithmetic on uint32.)
    """
    return philox4x32(seed, stream, ids, n)


def uniform(seed: int, stream: int, ids: torch.Tensor, n: int) -> torch.Tensor:
    """`philox` scaled to [0, 1): (B, n) float64, multiples of 2**-32."""
    return philox(seed, stream, ids, n).double() * 2.0**-32


__all__ = ["philox", "philox4x32", "uniform"]
