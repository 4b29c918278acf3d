"""Philox 4x32-10 in integer torch operations: the definition of the bits."""

import torch

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox4x32(seed: int, stream: int, ids: torch.Tensor, n: int) -> torch.Tensor:
    """(B, n) int64 in [0, 2**32); see the package for the layout of key and counter."""
    blocks = torch.arange(-(-n // 4), device=ids.device)
    shape = (len(ids), len(blocks))
    c = [
        blocks.expand(shape),
        (ids & _WORD)[:, None].expand(shape),
        (ids >> 32)[:, None].expand(shape),
        torch.full((), stream, dtype=torch.int64, device=ids.device).expand(shape),
    ]
    key = [seed & _WORD, seed >> 32]
    for _ in range(10):
        # An int64 product wraps modulo 2**64, so its bits are those of the unsigned one; the shift is masked to match.
        even, odd = c[0] * _MULTIPLIERS[0], c[2] * _MULTIPLIERS[1]
        c = [(odd >> 32 & _WORD) ^ c[1] ^ key[0], odd & _WORD, (even >> 32 & _WORD) ^ c[3] ^ key[1], even & _WORD]
        key = [(key[0] + _WEYL[0]) & _WORD, (key[1] + _WEYL[1]) & _WORD]
    return torch.stack(c, dim=-1).flatten(1)[:, :n]
