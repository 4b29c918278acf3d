"""The PVT of UM-MAE: attention to a pooled map, with sine-cosine positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ...parts import ImageSpec, Masking
from ...tokens import sincos_position_embedding
from .um_pyramid import TOKEN, PyramidBlock, PyramidEncoder, UMPyramid


@dataclass(frozen=True)
class UMPVT(UMPyramid):
    """The PVT of UM-MAE (arXiv:2205.10063; models_mae_pvt.py); defaults are PVT-S's."""

    dims: tuple[int, ...] = (64, 128, 320, 512)
    """Width of each stage."""
    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks in each stage."""
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    """Attention heads in each stage."""
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    """Hidden width of the MLP of each stage, as a multiple of the stage's width."""
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    """Side of the squares over which keys and values are averaged, tokens of the whole image.

    On a compacted image, the side is half as many tokens.
    """

    patch_norm: ClassVar[bool] = False

    @property
    def widths(self) -> tuple[int, ...]:
        return self.dims

    def block(self, stage: int, downsample: nn.Module | None) -> PyramidBlock:
        dim = self.dims[stage]
        return PyramidBlock(dim, PooledAttention(dim, self.num_heads[stage]), self.mlp_ratios[stage], downsample)

    def build(self, image: ImageSpec, masking: Masking) -> UMPVTEncoder:
        """Builds the network.

        Raises:
            ValueError: fields, image size or masking do not fit.
        """
        self.check(image.size, masking)
        for stage, reduction in enumerate(self.reductions):
            for compact in (False, True)[: 1 + (self.reads == "visible")]:
                grid = [n // TOKEN // (1 + compact) >> stage for n in image.size]
                if any(n % halved(reduction, compact) for n in grid):
                    raise ValueError(
                        f"encoder.reductions: stage {stage + 1} cannot average squares of {halved(reduction, compact)} "
                        f"of a map of {grid[0]} x {grid[1]}; use a divisor"
                    )
        return UMPVTEncoder(self, image, masking)


def halved(reduction: int, compact: bool) -> int:
    """Returns the reduction on a whole map, or on a compacted one."""
    return max(1, reduction // 2) if compact else reduction


class PooledAttention(nn.Module):
    """Attention with keys and values from the map averaged over squares (models_mae_pvt.py `Attention`)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.sr = nn.Conv2d(dim, dim, 1)
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, reduction: int) -> Tensor:
        """Maps a (B, H, W, C) map; keys and values are averaged over `reduction` x `reduction` tokens."""
        grid, heads = x.shape[1:3], self.num_heads
        pooled = x
        if reduction > 1:
            pooled = x.unflatten(2, (-1, reduction)).unflatten(1, (-1, reduction)).mean(dim=(2, 4))
        pooled = self.norm(F.linear(pooled.flatten(1, 2), self.sr.weight.flatten(1), self.sr.bias))
        q = self.q(x.flatten(1, 2)).unflatten(2, (heads, -1)).transpose(1, 2)
        k, v = self.kv(pooled).unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2)).unflatten(1, grid)


class UMPVTEncoder(PyramidEncoder):
    """The network of `UMPVT`; see `PyramidEncoder`."""

    def __init__(self, spec: UMPVT, image: ImageSpec, masking: Masking):
        super().__init__(spec, image, masking)
        self.reductions = spec.reductions
        rows, self.columns = (n // TOKEN for n in image.size)
        pos_embed = sincos_position_embedding(spec.dims[0], (rows, self.columns), num_prefix_tokens=0)
        self.pos_embed = nn.Parameter(pos_embed, requires_grad=False)

    def contexts(self, stage: int, places: Tensor, compact: bool) -> tuple[int, int]:
        reduction = halved(self.reductions[stage], compact)
        return reduction, reduction

    def position(self, x: Tensor, places: Tensor) -> Tensor:
        return x + self.pos_embed[0][places[..., 0] * self.columns + places[..., 1]]
