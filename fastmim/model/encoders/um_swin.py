"""The Swin of UM-MAE: windowed attention, with a position bias that an MLP computes from the distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastmim_kernels import window_attention

from ...parts import ImageSpec, Masking
from .um_pyramid import PATCH, TOKEN, PyramidBlock, PyramidEncoder, UMPyramid


@dataclass(frozen=True)
class UMSwin(UMPyramid):
    """The Swin of UM-MAE (arXiv:2205.10063; models_mae_swin.py); defaults are Swin-T's."""

    embed_dim: int = 96
    """Width of the first stage; each further stage is twice as wide."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks in each stage."""
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    """Attention heads in each stage."""
    window: int = 16
    """Side of a window, tokens of the whole image.

    On a compacted image, the side is half as many tokens. If the side does not divide a map, the windows have the next
    smaller side that does.
    """
    posmlp_dim: int = 32
    """Hidden width of the position MLP."""

    patch_norm: ClassVar[bool] = True

    @property
    def widths(self) -> list[int]:
        return [self.embed_dim << stage for stage in range(len(self.depths))]

    def block(self, stage: int, downsample: nn.Module | None) -> PyramidBlock:
        dim = self.widths[stage]
        return PyramidBlock(dim, WindowAttention(dim, self.num_heads[stage], self.posmlp_dim), 4, downsample)

    def build(self, image: ImageSpec, masking: Masking) -> UMSwinEncoder:
        """Builds the network.

        Raises:
            ValueError: fields, image size or masking do not fit.
        """
        self.check(image.size, masking)
        if self.window < 2 or self.window % 2:
            raise ValueError(f"encoder.window={self.window}: expected an even number of tokens, at least 2")
        for side in image.size:
            if not self.fits(side):
                near = min(
                    filter(self.fits, range(self.unit, 2 * side + 8 * self.unit, self.unit)),
                    key=lambda n: abs(n - side),
                )
                raise ValueError(
                    f"data.size={image.size}: windows of half of encoder.window={self.window} tokens, or more, do not "
                    f"divide every stage of {side} pixels; the nearest side that they do is {near}"
                )
        return UMSwinEncoder(self, image, masking)

    def fits(self, side: int) -> bool:
        """Returns True if windows divide an image side of `side` pixels in every stage.

        The side is that of the whole image, and also that of the compacted image if the encoder reads one.
        """
        scales = (1, 2) if self.reads == "visible" else (1,)
        stages = range(len(self.depths))
        return all(window_side(side // (TOKEN * n) >> stage, self.window // n) for n in scales for stage in stages)


def window_side(side: int, window: int) -> int | None:
    """Returns the largest divisor of a map's side that is from `window` down to half of it, or None."""
    return next((n for n in range(min(side, window), 0, -1) if side % n == 0 and (n == side or 2 * n >= window)), None)


@dataclass(frozen=True)
class Windows:
    """Windows of a map of (H, W) tokens, and the distances of their tokens in the whole image."""

    side: tuple[int, int]
    """Rows and columns of a window."""
    shift: tuple[int, int]
    """Rows and columns by which the map is rolled first."""
    offsets: Tensor
    """(1, 2, R, C) all distances, key - query, of two tokens of a window, in tokens of this stage."""
    codes: Tensor
    """(B or 1, H, W) int32; `codes[key] - codes[query] + origin` is the index of a pair in `offsets`."""
    origin: int
    """Index of distance zero in `offsets`."""

    @staticmethod
    def of(places: Tensor, stage: int, compact: bool, window: int, shifted: bool) -> Windows:
        """Builds the windows of a map.

        Args:
            places: places of the tokens, see `PyramidEncoder.contexts`.
            stage: number of the stage, from 0.
            compact: True if the tokens are of a compacted image.
            window: largest side of a window, tokens.
            shifted: roll the map first, except in a direction that one window covers.

        Raises:
            ValueError: no side of windows fits the map.
        """
        grid = places.shape[1:3]
        rows, columns = window_side(grid[0], window), window_side(grid[1], window)
        if rows is None or columns is None:
            raise ValueError(f"windows of at most {window} tokens do not divide a map of {tuple(grid)}")
        side = (rows, columns)
        down, right = (s // 2 if shifted and s < n else 0 for s, n in zip(side, grid, strict=True))
        shift = (down, right)
        # Distances are multiples of a token of this stage. Compaction moves patches, so if a patch is smaller than a
        # token, distances are multiples of a patch.
        step = min(1 << stage, PATCH // TOKEN)
        reach = [(n - 1) << stage for n in side]
        if compact:  # one patch of each 2x2 block stays, so distances double and grow by up to a patch
            reach = [2 * n + 2 * PATCH // TOKEN - 1 for n in reach]
        reach = [n // step for n in reach]
        away = [torch.arange(-n, n + 1, device=places.device) * (step / (1 << stage)) for n in reach]
        offsets = torch.stack(torch.meshgrid(*away, indexing="ij"))[None]
        # Rolled tokens count as lying beyond the end of the map. So each window is in one piece and `offsets` stays
        # small. Pairs that are not neighbours in the image get a wrong distance, but attention masks these pairs.
        beyond = (
            (torch.arange(n, device=places.device) < h) * (n << stage << compact)
            for n, h in zip(grid, shift, strict=True)
        )
        places = (places + torch.stack(torch.meshgrid(*beyond, indexing="ij"), dim=-1)) // step
        stride = 2 * reach[1] + 1
        codes = places[..., 0] * stride + places[..., 1]
        return Windows(side, shift, offsets, codes.int(), reach[0] * stride + reach[1])


class WindowAttention(nn.Module):
    """Attention in windows, with a bias that an MLP computes from the distance of two tokens.

    The distance is measured in the whole image: bias = posmlp(sign(d) log(1 + |d|)), with d = place of the key - place
    of the query (models_mae_swin.py `WindowAttention`). The official code runs the MLP on every pair of every window.
    This code runs the MLP once per possible distance, and each pair looks up the bias of its distance.
    """

    def __init__(self, dim: int, num_heads: int, posmlp_dim: int):
        super().__init__()
        self.num_heads = num_heads
        self.posmlp = nn.Sequential(nn.Conv2d(2, posmlp_dim, 1), nn.ReLU(), nn.Conv2d(posmlp_dim, num_heads, 1))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Maps a (B, H, W, C) map."""
        x = window_attention(
            self.qkv(x),
            windows.codes,
            self.table(windows.offsets),
            num_heads=self.num_heads,
            window=windows.side,
            shift=windows.shift,
            origin=windows.origin,
            scale=(x.shape[3] // self.num_heads) ** -0.5,
        )
        return self.proj(x)

    def table(self, offsets: Tensor) -> Tensor:
        """Returns the (heads, R * C) bias of (1, 2, R, C) offsets.

        The bias, and the sum of its gradient over all pairs, are in float32 or finer.
        """
        weight = next(self.posmlp.parameters())
        with torch.autocast(weight.device.type, enabled=False):
            offsets = offsets.to(weight.dtype)
            table = self.posmlp(offsets.sign() * offsets.abs().log1p())[0].flatten(1)
        return table.to(torch.promote_types(table.dtype, torch.float32))


class UMSwinEncoder(PyramidEncoder):
    """The network of `UMSwin`; see `PyramidEncoder`."""

    def __init__(self, spec: UMSwin, image: ImageSpec, masking: Masking):
        super().__init__(spec, image, masking)
        self.window = spec.window

    def contexts(self, stage: int, places: Tensor, compact: bool) -> tuple[Windows, Windows]:
        window = self.window // 2 if compact else self.window
        even, odd = (Windows.of(places, stage, compact, window, shifted) for shifted in (False, True))
        return even, odd if any(odd.shift) else even
