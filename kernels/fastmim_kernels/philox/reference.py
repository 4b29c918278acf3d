"""Philox 4x32-10 in integer operations of torch: the definition of correct."""

import torch

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def rounds(c: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """Returns the four random words of counters whose four words are `c`, all int64 in [0, 2**32)."""
    key = [seed & _WORD, seed >> 32 & _WORD]
    for _ in range(10):
        # An int64 product wraps modulo 2**64 like the unsigned product; masking makes the signed shift match too.
        even, odd = c[0] * _MULTIPLIERS[0], c[2] * _MULTIPLIERS[1]
        c = [(odd >> 32 & _WORD) ^ c[1] ^ key[0], odd & _WORD, (even >> 32 & _WORD) ^ c[3] ^ key[1], even & _WORD]
        key = [(key[0] + _WEYL[0]) & _WORD, (key[1] + _WEYL[1]) & _WORD]
    return c


def philox(seed: int, stream: int, ids: torch.Tensor, n: int) -> torch.Tensor:
    """Returns draws (B, n) int64 in [0, 2**32). The package documents key and counter."""
    blocks = torch.arange(-(-n // 4), device=ids.device)
    shape = (len(ids), len(blocks))
    streams = torch.full((), stream, dtype=torch.int64, device=ids.device)
    c = [blocks, (ids & _WORD)[:, None], (ids >> 32 & _WORD)[:, None], streams]
    return torch.stack(rounds([word.expand(shape) for word in c], seed), dim=-1).flatten(1)[:, :n].contiguous()
