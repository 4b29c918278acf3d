"""The shared nouns: `Mask`, sample ids, random streams, patch layout, and the base class of every part.

May import torch and fastmim_kernels only.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn


class Stream(enum.IntEnum):
    """What a random draw is for. Values are part of the reproducibility contract: never renumber."""

    ORDER = 0
    CROP = 1
    FLIP = 2
    MASK = 3
    HELD_OUT = 4
    SUBSTITUTE = 5


def sample_id(index: Tensor, epoch: Tensor | int, repeat: Tensor | int = 0) -> Tensor:
    """Packs (sample index, epoch, repeat) into one int64, the key of everything drawn for that sample.

    Low 32 bits: index in the manifest. High word: epoch * 256 + repeat.
    """
    return index + (epoch * 256 + repeat << 32)


def sample_index(ids: Tensor) -> Tensor:
    """The manifest index in each id."""
    return ids & 0xFFFFFFFF


@dataclass(frozen=True)
class Mask:
    """Which patches of each image are hidden. Class tokens are not patches.

    ids: (B, L) int64, a permutation of the patches in every row; the first `num_keep` are visible, the rest hidden.
    grid: (rows, columns) with rows * columns == L; patch l is row l // columns, column l % columns.
    """

    ids: Tensor
    num_keep: int
    grid: tuple[int, int]

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
        return torch.ones_like(self.ids, dtype=torch.bool).scatter_(1, self.ids_keep, False)


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
    if dim % 4:
        raise ValueError(f"a sine-cosine position embedding needs a dimension divisible by 4, got {dim}")
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [positions.reshape(-1, 1) * omega for positions in (columns, rows)]
    table = torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()
    return nn.functional.pad(table, (0, 0, num_prefix_tokens, 0))[None]


def init_transformer(module: nn.Module) -> None:
    """MAE's initialisation of one module (models_mae.py `_init_weights`): Xavier-uniform weights, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class Masking(ABC):
    """Chooses the hidden patches: `masking(seed, ids, grid) -> Mask`."""

    @abstractmethod
    def __call__(self, seed: int, ids: Tensor, grid: tuple[int, int]) -> Mask: ...


@dataclass(frozen=True)
class Encoder(ABC):
    """Describes an encoder; `build` returns a module `(images, mask) -> latent` with `grid` and `patch_size`.

    size: (H, W) of the images in pixels; mean, std: per channel, on the 0..1 scale.
    """

    @abstractmethod
    def build(self, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module: ...


@dataclass(frozen=True)
class Decoder(ABC):
    """Describes a decoder; `build(encoder)` returns a module `(latent, mask) -> pred` of the hidden patches."""

    @abstractmethod
    def build(self, encoder: nn.Module) -> nn.Module: ...


@dataclass(frozen=True)
class Target(ABC):
    """What is predicted: `target(images, patch_size) -> (B, L, P)`, from normalised (B, H, W, C) float images."""

    @abstractmethod
    def __call__(self, images: Tensor, patch_size: int) -> Tensor: ...

    def pixels(self, pred: Tensor, patches: Tensor) -> Tensor:
        """(…, P) predictions as normalised pixels, for pictures; `patches` are the true ones, for lost statistics."""
        return pred


@dataclass(frozen=True)
class Loss(ABC):
    """Compares: `loss(pred, target) -> ()` fp32, the mean over the rows it is given (the hidden patches)."""

    @abstractmethod
    def __call__(self, pred: Tensor, target: Tensor) -> Tensor: ...


class Cut(NamedTuple):
    """How a sample is made from an image: a window of it is resized, and the sample cut from that."""

    window: tuple[int, int, int, int]
    """Top, left, height and width in whole pixels of the image as seen, so after its EXIF orientation."""
    resized: tuple[int, int]
    """Height and width to which the window is resized."""
    offset: tuple[int, int] = (0, 0)
    """Top and left of the sample in the resized window; beyond its borders the sample shows its reflection, in which
    the pixels of the border are not repeated."""


@dataclass(frozen=True)
class Crop(ABC):
    """Chooses the part of an image that becomes a training sample, from `draws` uniform numbers in [0, 1)."""

    interpolation: Literal["bicubic", "bilinear"] = field(default="bicubic", kw_only=True)
    """Filter of the resize, antialiased."""

    @property
    @abstractmethod
    def draws(self) -> int: ...

    @abstractmethod
    def cut(self, image: tuple[int, int], size: tuple[int, int], uniforms: Sequence[float]) -> Cut:
        """The cut of an image of (height, width) that makes a sample of `size`."""
