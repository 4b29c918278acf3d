"""Maskings: the choice of hidden patches, as a pure function of (seed, sample id, grid)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from fastmim_kernels import block_mask, random_mask, uniform_mask

from ..parts import Masking
from ..samples import Stream
from ..tokens import Mask


def _check_ratio(ratio: float) -> None:
    """Checks that a hidden fraction is between 0 and 1."""
    if not 0 < ratio < 1:
        raise ValueError(f"masking.ratio is the hidden fraction, between 0 and 1 exclusive; got {ratio}")


def _check_counts(ratio: float, visible: int, total: int, what: str) -> None:
    """Checks that at least one of `total` patches or blocks is visible and one is hidden."""
    if not 0 < visible < total:
        raise ValueError(
            f"masking.ratio={ratio} leaves {visible} of {total} {what} visible; at least one must be visible and one "
            "hidden: change the ratio, the image size or the patch size"
        )


@dataclass(frozen=True)
class RandomMasking(Masking):
    """Hides a random subset of patches (MAE, arXiv:2111.06377, section 3, "Masking").

    Each patch draws a number; the int(L * (1 - ratio)) smallest stay visible (models_mae.py `random_masking`). At least
    one patch must be visible and one hidden.
    """

    ratio: float = 0.75
    """Hidden fraction of the patches, between 0 and 1."""
    order: Literal["noise", "raster"] = "noise"
    """Order of the visible tokens: "noise" = the order of their draws, as published; "raster" = ascending.

    Raster order is cheaper to draw. Both orders hide the same patches.
    """

    def __post_init__(self):
        _check_ratio(self.ratio)
        if self.order not in ("noise", "raster"):
            raise ValueError(f'masking.order is "noise" or "raster"; got {self.order!r}')

    def __call__(self, seed: int, ids: Tensor, grid: tuple[int, int], patch_size: int) -> Mask:
        num_patches = grid[0] * grid[1]
        num_keep = int(num_patches * (1 - self.ratio))
        _check_counts(self.ratio, num_keep, num_patches, "patches")
        order = random_mask(seed, Stream.MASK, ids, num_patches, num_keep, raster=self.order == "raster")
        return Mask(order, num_keep, grid)


@dataclass(frozen=True)
class BlockMasking(Masking):
    """Hides random square blocks of the image (SimMIM, arXiv:2111.09886, section 3.2).

    Official code: data_simmim.py `MaskGenerator`. ceil(n * ratio) of the n blocks are hidden, each with all its
    patches. The official code rounds up: for a ratio of 0.6, 22 of 36 blocks are hidden at 192 pixels, 30 of 49 at 224.
    """

    ratio: float = 0.6
    """Hidden fraction of the blocks, between 0 and 1."""
    block: int = 32
    """Side of a block, pixels."""

    def __post_init__(self):
        _check_ratio(self.ratio)

    def __call__(self, seed: int, ids: Tensor, grid: tuple[int, int], patch_size: int) -> Mask:
        side, rest = divmod(self.block, patch_size)
        if rest or side == 0 or grid[0] % side or grid[1] % side:
            near = patch_size * max(1, side)
            while near > patch_size and (grid[0] * patch_size % near or grid[1] * patch_size % near):
                near -= patch_size
            raise ValueError(
                f"masking.block={self.block} must be a multiple of the patch size {patch_size} and divide the image of "
                f"{grid[0] * patch_size}x{grid[1] * patch_size} pixels; the nearest that does is {near}"
            )
        total = (grid[0] // side) * (grid[1] // side)
        visible = total - math.ceil(total * self.ratio)
        _check_counts(self.ratio, visible, total, "blocks")
        return Mask(block_mask(seed, Stream.MASK, ids, *grid, side), visible * side * side, grid)


@dataclass(frozen=True)
class JointMasking(Masking):
    """Hides blocks of side x side patches (long-sequence MAE, arXiv:2210.07224).

    Official code: util/long_seq_patch_loader.py. The blocks are put in random order, and the first int(L * (1 - ratio))
    patches in that order stay visible. Blocks reach over the edge of a grid that is not a multiple of a block. The last
    visible block may be cut.
    """

    ratio: float = 0.75
    """Hidden fraction of the patches, between 0 and 1."""
    side: int = 2
    """Side of a block, patches."""

    def __post_init__(self):
        _check_ratio(self.ratio)
        if self.side < 1:
            raise ValueError(f"masking.side: expected at least 1 patch, got {self.side}")

    def __call__(self, seed: int, ids: Tensor, grid: tuple[int, int], patch_size: int) -> Mask:
        num_patches = grid[0] * grid[1]
        num_keep = int(num_patches * (1 - self.ratio))
        _check_counts(self.ratio, num_keep, num_patches, "patches")
        if self.side >= max(grid):
            raise ValueError(
                f"masking.side={self.side}: a grid of {grid[0]} x {grid[1]} patches is one block, so nothing is drawn; "
                f"expected at most {max(grid) - 1}"
            )
        return Mask(block_mask(seed, Stream.MASK, ids, *grid, self.side), num_keep, grid)


@dataclass(frozen=True)
class UniformMasking(Masking):
    """Keeps one random patch of every 2x2 block (UM-MAE, arXiv:2205.10063, section 3.2).

    With secondary masking, the encoder sees the content of int(K * (1 - secondary)) of the K visible patches. A learned
    token stands for the others. Hidden patches are in raster order.
    """

    secondary: float = 0.25
    """Fraction of the visible patches that a learned token replaces; 0 = none, without a token."""
    draw: Literal["stratified", "iid"] = "stratified"
    """Draw of the visible corner of each block.

    "stratified" follows the official code (mask_transform.py): corners are drawn without replacement from a pool twice
    as large as needed, which holds every corner equally often. "iid" follows the paper: corners are independent.
    """

    uniform: ClassVar[bool] = True

    def __post_init__(self):
        if not 0 <= self.secondary < 1:
            raise ValueError(f"masking.secondary: expected a fraction, at least 0 and below 1, got {self.secondary}")
        if self.draw not in ("stratified", "iid"):
            raise ValueError(f'masking.draw is "stratified" or "iid"; got {self.draw!r}')

    @property
    def replaces(self) -> bool:
        return self.secondary > 0

    def __call__(self, seed: int, ids: Tensor, grid: tuple[int, int], patch_size: int) -> Mask:
        if grid[0] % 2 or grid[1] % 2:
            near = " x ".join(str(max(2, n - n % 2) * patch_size) for n in grid)
            raise ValueError(
                f"uniform masking needs an even number of patches on each side, got {grid[0]} x {grid[1]} of "
                f"{patch_size} pixels; the nearest image size is {near}"
            )
        num_keep = grid[0] * grid[1] // 4
        kept = int(num_keep * (1 - self.secondary))
        if kept == 0:
            raise ValueError(
                f"masking.secondary={self.secondary} replaces all of the {num_keep} visible patches; at least one "
                "must reach the encoder: lower it, or enlarge the image"
            )
        streams, stratified = (Stream.MASK, Stream.SECONDARY), self.draw == "stratified"
        order, secondary = uniform_mask(seed, *streams, ids, *grid, kept, stratified=stratified)
        return Mask(order, num_keep, grid, secondary if self.replaces else None)


WHOLE_IMAGES = UniformMasking(secondary=0.0)
"""Masking with which an encoder of whole images is built.

Whole images need no mask, but building an encoder needs a masking. Every encoder accepts this masking.
"""
