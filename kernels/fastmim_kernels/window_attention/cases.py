"""Named inputs of window_attention, for its tests and its benchmark."""

import math
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from .._targets import Targets
from . import reference, window_attention
from .windows import cut, join


@dataclass(frozen=True)
class Case:
    batch: int
    grid: tuple[int, int]
    window: tuple[int, int]
    shift: tuple[int, int]
    num_heads: int
    dim: int = 32
    """Features of a head."""
    places: str = "image"
    """Positions of tokens: "image" = in an image, "window" = in the window.

    With "image", each 2x2 cell of the image has one token, as in a uniform mask.
    """
    strided: bool = False
    """True = qkv and codes are views with gaps."""

    @property
    def reach(self) -> tuple[int, int]:
        """Largest distance of two positions, in rows and in columns."""
        cell = 2 if self.places == "image" else 1
        return cell * self.window[0] - 1, cell * self.window[1] - 1


_UM_T = Case(batch=4, grid=(32, 32), window=(8, 8), shift=(0, 0), num_heads=3)
_SIMMIM_B = Case(batch=4, grid=(48, 48), window=(6, 6), shift=(3, 3), num_heads=4, places="window")

BENCH_DTYPES = ("fp32", "bf16")
BENCH = {
    "um swin_t/256 stage 1": _UM_T,
    "um swin_t/256 stage 1 shifted": replace(_UM_T, shift=(4, 4)),
    "um swin_t/256 stage 2 shifted": replace(_UM_T, grid=(16, 16), shift=(4, 4), num_heads=6),
    "um swin_t/256 stage 3": replace(_UM_T, grid=(8, 8), num_heads=12),
    "um swin_t/256 stage 4": replace(_UM_T, grid=(4, 4), window=(4, 4), num_heads=24),
    "um swin_t/256 whole, stage 2 shifted": replace(_UM_T, grid=(32, 32), window=(16, 16), shift=(8, 8), num_heads=6),
    "simmim swin_b/192 stage 1 shifted": _SIMMIM_B,
    "simmim swin_b/224 stage 3 shifted": replace(_SIMMIM_B, grid=(14, 14), window=(7, 7), num_heads=16),
    "simmim swin_l/192 stage 1 shifted": replace(_SIMMIM_B, window=(12, 12), shift=(6, 6), num_heads=6),
}

_SMALL = Case(batch=2, grid=(4, 6), window=(2, 3), shift=(1, 1), num_heads=2, dim=8)
CASES = {
    "um": replace(_UM_T, batch=1, grid=(16, 16), num_heads=2),
    "um_shifted": replace(_UM_T, batch=2, grid=(16, 16), shift=(4, 4), num_heads=1),
    "um_last_stage": replace(_UM_T, batch=3, grid=(4, 4), window=(4, 4)),
    "whole": Case(1, (16, 16), (16, 16), (0, 0), 1),
    "simmim": replace(_SIMMIM_B, batch=2, grid=(12, 12)),
    "simmim_7": replace(_SIMMIM_B, batch=1, grid=(14, 14), window=(7, 7), num_heads=3),
    "simmim_12": replace(_SIMMIM_B, batch=1, grid=(24, 12), window=(12, 12), shift=(6, 0), num_heads=1),
    "over_64_tokens": Case(2, (9, 22), (9, 11), (0, 4), 2, 5),
    "small": _SMALL,
    "small_window_places": replace(_SMALL, places="window"),
    "one_value": Case(1, (1, 1), (1, 1), (0, 0), 1, 1),
    "primes": Case(3, (5, 7), (5, 7), (2, 3), 5, 29),
    "wide_heads": Case(1, (6, 10), (3, 5), (1, 4), 1, 64),
    "rows_shifted": replace(_SMALL, shift=(1, 0)),
    "strided": replace(_SMALL, strided=True),
    "no_images": replace(_SMALL, batch=0),
}

VARIANTS = {
    f"{side}x{side} {name}": (Case(1, (side, side), (side, side), (0, 0), 1), dtype)
    for side in (4, 6, 7, 8, 12, 14, 16)
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
}
PER_IMAGE = (0, 1)
TARGETS = (
    Targets("Window attention with biases", cpu={"official": 2, "memory": 0.3}, cuda={"official": 3, "flex": 1.5}),
)


def places(case: Case, generator: torch.Generator) -> torch.Tensor:
    """Returns (B or 1, H, W, 2) rows and columns, of which only differences matter."""
    # Positions count from the start of the rolled map, or of the window.
    rolled = [(torch.arange(n) - s) % n for n, s in zip(case.grid, case.shift, strict=True)]
    if case.places == "image":
        cells = torch.stack(torch.meshgrid(*rolled, indexing="ij"), dim=-1)
        return 2 * cells + torch.randint(2, (case.batch, *case.grid, 2), generator=generator)
    in_window = [n % w for n, w in zip(rolled, case.window, strict=True)]
    return torch.stack(torch.meshgrid(*in_window, indexing="ij"), dim=-1)[None]


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.window_attention`, equal on every device.

    dtype: type of `qkv`.
    """
    generator = torch.Generator().manual_seed(seed)
    (rows, columns), gap = case.reach, 1 + case.strided
    where = places(case, generator)
    codes = (where[..., 0] * (2 * columns + 1) + where[..., 1]).int()
    codes = codes.repeat_interleave(gap, dim=2)[:, :, ::gap]
    table = torch.randn(case.num_heads, (2 * rows + 1) * (2 * columns + 1), generator=generator)
    qkv = torch.randn(case.batch, *case.grid, gap * 3 * case.num_heads * case.dim, generator=generator)
    qkv = qkv.to(device, dtype)[..., ::gap]
    origin = rows * (2 * columns + 1) + columns
    options = (case.num_heads, list(case.window), list(case.shift), origin, case.dim**-0.5)
    return qkv, codes.to(device), table.to(device), *options


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided, forward and backward.

    qkv is read twice, result and incoming gradient are moved once each, and the gradient of qkv is written.
    """
    return 11 * case.batch * case.grid[0] * case.grid[1] * case.num_heads * case.dim * dtype.itemsize


def flops(case: Case) -> int:
    """Counts two matrix products, four in the gradient, and the weights computed again for the gradient."""
    return 14 * math.prod(case.window) * case.batch * math.prod(case.grid) * case.num_heads * case.dim


def flex(codes, heads: int, window, shift, origin: int, scale: float):
    """Returns FlexAttention on the windows as a function of qkv and the table; compiled on a GPU.

    Bias and mask are looked up by index, as in our kernels. Pairs that only the roll brought together are dropped,
    instead of getting a bias of -100. On a CPU, FlexAttention has only an uncompiled forward pass. So its results are
    checked on a CPU, and its time is measured on a GPU.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    attention = torch.compile(flex_attention) if codes.is_cuda else flex_attention
    grid, tokens = codes.shape[1:], math.prod(window)
    length = math.prod(grid)
    code = cut(codes[..., None], window, shift).flatten(1)
    rows, columns = (torch.arange(n, device=codes.device) >= n - s for n, s in zip(grid, shift, strict=True))
    area = cut((2 * rows[:, None] + columns)[None, ..., None], window, (0, 0)).flatten()

    def together(b, h, q, k):
        return (q // tokens == k // tokens) & (area[q] == area[k])

    mask = create_block_mask(together, None, None, length, length, device=codes.device)

    def attend(qkv, table):
        def biased(score, b, h, q, k):
            image = b if len(code) > 1 else 0
            # Also called for pairs of other windows, which the mask drops; their place may lie outside the table.
            return score + table[h, (code[image, k] - code[image, q] + origin).clamp(0, table.shape[1] - 1)]

        q, k, v = cut(qkv, window, shift).unflatten(3, (3, heads, -1)).flatten(1, 2).permute(2, 0, 3, 1, 4)
        out = attention(q, k, v, score_mod=biased, block_mask=mask, scale=scale)
        return join(out.transpose(1, 2).flatten(2).unflatten(1, (-1, tokens)), grid, window, shift)

    return attend


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns qkv, and the functions of qkv that the benchmark runs; each also makes its table or biases.

    official: for positions in the image, an MLP on the offset of every pair of every window, as in models_mae_swin.py;
    for positions in the window, a table indexed by pair, as in Swin.
    sdpa: biases looked up, then torch's attention.
    flex: FlexAttention with the same table, on a GPU only.
    """
    qkv, codes, table, heads, window, shift, origin, scale = inputs(case, dtype, device)
    where = places(case, torch.Generator().manual_seed(0)).to(device)
    mlp = torch.nn.Sequential(torch.nn.Conv2d(2, 32, 1), torch.nn.ReLU(), torch.nn.Conv2d(32, heads, 1)).to(device)
    table.requires_grad_()
    side = [torch.arange(-n, n + 1, device=device) for n in case.reach]
    offsets = torch.stack(torch.meshgrid(*side, indexing="ij"))[None].float()

    def position_mlp(offsets):
        return mlp(offsets.sign() * offsets.abs().log1p())

    def make_table():
        return position_mlp(offsets)[0].flatten(1) if case.places == "image" else table

    def outside():
        rows, columns = (torch.arange(n, device=device) >= n - s for n, s in zip(case.grid, shift, strict=True))
        area = cut((2 * rows[:, None] + columns)[None, ..., None], window, (0, 0))
        return -100.0 * (area != area.transpose(2, 3))[:, :, None]

    mask = outside().to(dtype)
    index = cut(codes[..., None], window, shift).long()
    index = index.transpose(2, 3) - index + origin

    def official_bias():
        if case.places == "window":
            return table[:, index].permute(1, 2, 0, 3, 4)
        x = cut(where.float(), window, shift)
        x = (x[:, :, None] - x[:, :, :, None]).flatten(0, 1).permute(0, 3, 1, 2)
        return position_mlp(x).unflatten(0, (case.batch, -1))

    def attend(qkv, attention):
        q, k, v = cut(qkv, window, shift).unflatten(3, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)
        return join(attention(q, k, v).transpose(2, 3).flatten(3), case.grid, window, shift)

    def unfused(q, k, v):
        return ((q * scale) @ k.transpose(3, 4) + official_bias().to(dtype) + mask).softmax(-1) @ v

    def fused(q, k, v):
        bias = make_table().gather(1, index.flatten().expand(heads, -1)).to(dtype)
        bias = bias.view(-1, *index.shape).permute(1, 2, 0, 3, 4) + mask
        q, k, v, bias = (x.flatten(1, 2) for x in (q, k, v, bias))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(len(q), -1, -1, -1))
        return out.unflatten(1, (-1, heads))

    options = (heads, window, shift, origin, scale)
    names = ("num_heads", "window", "shift", "origin", "scale")
    flexed = flex(codes, *options) if device == "cuda" else None
    return qkv.requires_grad_(), {
        "ours": lambda qkv: window_attention(qkv, codes, make_table(), **dict(zip(names, options, strict=True))),
        "reference": lambda qkv: reference.window_attention(qkv, codes, make_table(), *options),
        "official": lambda qkv: attend(qkv, unfused),
        "sdpa": lambda qkv: attend(qkv, fused),
        **({"flex": lambda qkv: flexed(qkv, make_table())} if flexed else {}),
    }
