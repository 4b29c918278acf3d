"""Philox 4x32-10 in integer torch operations: the definition of the bits."""

import torch

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def rounds(c: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """The four random words of the counters whose words are `c`, all int64 in [0, 2**32)."""
    key = [seed & _WORD, seed >> 32 & _WORD]
    for _ in range(10):
        # An int64 product wraps modulo 2**64, so its bits are those of the unsigned one; the shift is masked to match.
        even, odd = c[0] * _MULTIPLIERS[0], c[2] * _MULTIPLIERS[1]
        c = [(odd >> 32 & _WORD) ^ c[1] ^ key[0], odd & _WORD, (even >> 32 & _WORD) ^ c[3] ^ key[1], even & _WORD]
        key = [(key[0] + _WEYL[0]) & _WORD, (key[1] + _WEYL[1]) & _WORD]
    return c


def philox(seed: int, stream: int, ids: torch.Tensor, n: int) -> torch.Tensor:
    """(B, n) int64 in [0, 2**32); see the package for the layout of key and counter."""
    blocks = torch.arange(-(-n // 4), device=ids.device)
    shape = (len(ids), len(blocks))
    streams = torch.full((), stream, dtype=torch.int64, device=ids.device)
    c = [blocks, (ids & _WORD)[:, None], (ids >> 32 & _WORD)[:, None], streams]
    return torch.stack(rounds([word.expand(shape) for word in c], seed), dim=-1).flatten(1)[:, :n].contiguous()
