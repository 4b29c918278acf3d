"""Tokens and patches: `Mask`, and the layout of patches in images. May import torch only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Mask:
    """Which patches of each image are hidden. Class tokens are not patches.

    ids: (B, L) int64, a permutation of the patches in every row; the first `num_keep` are visible, the rest hidden.
    grid: (rows, columns) with rows * columns == L; patch l is row l // columns, column l % columns.
    secondary: (B, K) bool in the order of `ids_keep`, True = visible, but the encoder gets a learned token instead of
        its content (UM-MAE's secondary masking); None = no such patches.
    """

    ids: Tensor
    num_keep: int
    grid: tuple[int, int]
    secondary: Tensor | None = None

    @property
    def ids_keep(self) -> Tensor:
        """(B, K) visible patches."""
        return self.ids[:, : self.num_keep]

    @property
    def ids_hidden(self) -> Tensor:
        """(B, L - K) hidden patches, which the decoder predicts."""
        return self.ids[:, self.num_keep :]

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, True = hidden."""
        import torch

        return torch.ones_like(self.ids, dtype=torch.bool).scatter_(1, self.ids_keep, False)

    def hidden_map(self, size: tuple[int, int]) -> Tensor:
        """(B, h, w) bool, `mask` enlarged to a finer grid of `size`: of tokens, or of pixels.

        Raises:
            ValueError: `size` is not a multiple of the mask's grid.
        """
        (height, rest_h), (width, rest_w) = (divmod(n, cells) for n, cells in zip(size, self.grid, strict=True))
        if rest_h or rest_w:
            raise ValueError(f"a grid of {size} is not a whole multiple of the mask's {self.grid}")
        return self.mask.view(-1, *self.grid).repeat_interleave(height, 1).repeat_interleave(width, 2)

    def __getitem__(self, images: slice | list[int]) -> Mask:
        """The mask of some of the images."""
        secondary = None if self.secondary is None else self.secondary[images]
        return replace(self, ids=self.ids[images], secondary=secondary)


def take(x: Tensor, ids: Tensor) -> Tensor:
    """Rows of (B, L, D) at (B, M) ids: (B, M, D)."""
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[-1]))


def as_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, h * w, D), in raster order, as a map (B, D, h, w)."""
    return x.transpose(1, 2).unflatten(2, grid)


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cuts (B, H, W, C) images into (B, L, p*p*C) patches, row-major; inside a patch (row, column, channel).

    The layout of MAE's `patchify` (models_mae.py), for channels-last images.
    """
    b, h, w, c = images.shape
    p = patch_size
    x = images.reshape(b, h // p, p, w // p, p, c).transpose(2, 3)
    return x.reshape(b, (h // p) * (w // p), p * p * c)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """Inverse of `patchify`: (B, L, p*p*C) to (B, H, W, C)."""
    b, _, values = patches.shape
    p, (rows, columns) = patch_size, grid
    x = patches.reshape(b, rows, columns, p, p, values // (p * p)).transpose(2, 3)
    return x.reshape(b, rows * p, columns * p, -1)


def sincos_position_embedding(dim: int, grid: tuple[int, int], *, num_prefix_tokens: int) -> Tensor:
    """Fixed 2-D sine-cosine position embedding of MAE (util/pos_embed.py).

    The first half of the channels encodes the column, the second the row; each half is [sin(p w_k) | cos(p w_k)] with
    w_k = 10000 ** (-k / (dim/4)). Rows of prefix tokens (the class token) are zero.

    Returns: (1, num_prefix_tokens + L, dim) float32.
    Raises:
        ValueError: `dim` is not a multiple of 4.
    """
    import torch
    from torch.nn.functional import pad

    if dim % 4:
        raise ValueError(f"a sine-cosine position embedding needs a dimension divisible by 4, got {dim}")
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [positions.reshape(-1, 1) * omega for positions in (columns, rows)]
    table = torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()
    return pad(table, (0, 0, num_prefix_tokens, 0))[None]


def init_transformer(module: nn.Module) -> None:
    """MAE's initialisation of one module (models_mae.py `_init_weights`): Xavier-uniform weights, zero biases."""
    from torch import nn

    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def run_blocks(blocks: Iterable[Callable[[Tensor], Tensor]], x: Tensor, recompute: bool) -> Tensor:
    """Runs blocks one after another; `recompute` stores only the input of each and recomputes the rest."""
    from torch.utils.checkpoint import checkpoint

    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
    return x
