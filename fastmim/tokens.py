"""Masks, the layout of patches in images, position embeddings, and helpers of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Mask:
    """The hidden patches of each image of a batch. Class tokens are not patches."""

    ids: Tensor
    """(B, L) int64; each row lists the `num_keep` visible patches, then the hidden patches.
    """
    num_keep: int
    """Number K of visible patches per image."""
    grid: tuple[int, int]
    """Rows and columns of patches; patch l is at row l // columns, column l % columns."""
    secondary: Tensor | None = None
    """(B, K) bool in the order of `ids_keep`, or None.
    True marks a visible patch whose content the encoder does not see (UM-MAE's secondary masking). A learned token
    replaces the patch. None = no such patches."""

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
        """Enlarges `mask` to a finer grid of tokens or pixels: (B, h, w) bool.

        Args:
            size: rows and columns (h, w) of the finer grid.

        Raises:
            ValueError: `size` is not a multiple of the mask's grid.
        """
        (height, rest_h), (width, rest_w) = (divmod(n, cells) for n, cells in zip(size, self.grid, strict=True))
        if rest_h or rest_w:
            raise ValueError(f"a grid of {size} is not a whole multiple of the mask's {self.grid}")
        return self.mask.view(-1, *self.grid).repeat_interleave(height, 1).repeat_interleave(width, 2)

    def __getitem__(self, images: slice | list[int]) -> Mask:
        """Returns the mask of some of the images."""
        secondary = None if self.secondary is None else self.secondary[images]
        return replace(self, ids=self.ids[images], secondary=secondary)


def take(x: Tensor, ids: Tensor) -> Tensor:
    """Gathers rows of (B, L, D) by (B, M) indices: (B, M, D)."""
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[-1]))


def as_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Views (B, h * w, D) tokens in raster order as a (B, D, h, w) map."""
    return x.transpose(1, 2).unflatten(2, grid)


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cuts (B, H, W, C) images into (B, L, p*p*C) patches in raster order.

    Inside a patch, values are ordered (row, column, channel). This is the layout of MAE's `patchify`
    (models_mae.py), for channels-last images.
    """
    b, h, w, c = images.shape
    p = patch_size
    x = images.reshape(b, h // p, p, w // p, p, c).transpose(2, 3)
    return x.reshape(b, (h // p) * (w // p), p * p * c)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """Joins (B, L, p*p*C) patches into (B, H, W, C) images; the inverse of `patchify`."""
    b, _, values = patches.shape
    p, (rows, columns) = patch_size, grid
    x = patches.reshape(b, rows, columns, p, p, values // (p * p)).transpose(2, 3)
    return x.reshape(b, rows * p, columns * p, -1)


def sincos_position_embedding(dim: int, grid: tuple[int, int], *, num_prefix_tokens: int) -> Tensor:
    """Computes MAE's fixed 2-D sine-cosine position embedding (util/pos_embed.py).

    The first half of the channels encodes the column, the second half the row. Each half is [sin(p w_k) | cos(p w_k)]
    with w_k = 10000 ** (-k / (dim/4)). Prefix tokens, such as the class token, have rows of zeros.

    Args:
        dim: width, a multiple of 4.
        grid: rows and columns of patches, L in total.
        num_prefix_tokens: number of rows of zeros before the patches.

    Returns:
        (1, num_prefix_tokens + L, dim) float32.

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
    """Initialises one module as MAE does: Xavier-uniform weights, zero biases (models_mae.py)."""
    from torch import nn

    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def run_blocks(blocks: Iterable[Callable[[Tensor], Tensor]], x: Tensor, recompute: bool) -> Tensor:
    """Runs blocks one after another.

    Args:
        blocks: functions from tokens to tokens.
        x: input of the first block.
        recompute: True stores only the input of each block, and recomputes the rest in the backward pass.
    """
    from torch.utils.checkpoint import checkpoint

    for block in blocks:
        # `checkpoint` has no type that names its result.
        result: Any = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        x = result
    return x
