"""What the Swin and the PVT of UM-MAE share: four stages of tokens of 4 pixels, on a whole or on a compacted image.

May import timm, L1 and L0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastmim_kernels import mask_token

from ...config.fields import check_bounds, check_types
from ...parts import Encoder, ImageSpec, Masking
from ...tokens import Mask, init_transformer
from .checks import check_masking, check_size
from .create import take_module
from .dense import DenseInput, compute_dtype, convolve, cut

TOKEN = 4
"""Side of a token of the first stage, pixels."""
PATCH = 16
"""Side of a patch that is hidden and predicted, pixels."""


@dataclass(frozen=True)
class UMPyramid(Encoder):
    """A pyramid encoder for uniform masking (UM-MAE, arXiv:2205.10063, section 3), or for SimMIM on the whole image.

    reads = "visible": the visible patches, one of each 2x2 block, are moved together into an image of half the side.
    reads = "all": the whole image, a learned token in place of hidden content (implus/UM-MAE `models_simmim_*.py`).
    """

    reads: Literal["visible", "all"] = "visible"
    """"visible" patches only, moved together, which needs UniformMasking; or "all" of the image."""
    depths: tuple[int, ...] = ()
    """Blocks in each stage."""
    num_heads: tuple[int, ...] = ()
    """Attention heads in each stage."""
    drop_path: float = field(default=0.0, kw_only=True)
    """Stochastic depth rate of the last block, growing linearly from 0."""

    patch_norm: ClassVar[bool]
    """True if a layer norm follows the patch embedding and precedes each downsampling."""

    def __post_init__(self):
        check_types(self, "encoder.")
        check_bounds(self, "encoder.", "drop_path", at_least=0, below=1)
        sizes = (f.name for f in fields(self) if f.name not in ("reads", "drop_path"))
        check_bounds(self, "encoder.", *sizes, at_least=1)

    @property
    @abstractmethod
    def widths(self) -> Sequence[int]:
        """Channels of each stage."""

    @property
    def unit(self) -> int:
        """Number of pixels that divides both sides of every image."""
        return (TOKEN << len(self.depths) - 1) * (2 if self.reads == "visible" else 1)

    @abstractmethod
    def block(self, stage: int, downsample: nn.Module | None) -> nn.Module:
        """A block `(x, context) -> x` on (B, H, W, C) tokens, which first downsamples them where that is not None."""

    def check(self, size: tuple[int, int], masking: Masking) -> None:
        """
        Raises:
            ValueError: fields, image size or masking do not fit.
        """
        stages = max(len(self.widths), 3)  # so that a token of the last is as large as a patch
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, tuple) and len(value) != stages:
                raise ValueError(f"encoder.{f.name}: expected a number for each of {stages} stages, got {value}")
        for width, heads in zip(self.widths, self.num_heads, strict=True):
            if width % heads:
                raise ValueError(f"encoder: a stage {width} wide cannot have {heads} heads; use a divisor")
        check_masking(masking, self.reads)
        check_size(size, self.unit, f"{type(self).__name__} with reads={self.reads}")


class TokenEmbed(nn.Module):
    """Tokens of pixels (B, h, w, 4*4*C), as `cut`, to (B, h, w, D): a strided convolution, and a layer norm, if any."""

    def __init__(self, channels: int, dim: int, norm: bool):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, TOKEN, stride=TOKEN)
        self.norm = nn.LayerNorm(dim, eps=1e-6) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(convolve(self.proj, x))


class Downsample(nn.Module):
    """2x2 tokens to one: a layer norm of each, if any, then a strided convolution."""

    def __init__(self, dim: int, out_dim: int, norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6) if norm else nn.Identity()
        self.proj = nn.Conv2d(dim, out_dim, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H/2, W/2, C')."""
        return convolve(self.proj, cut(self.norm(x), 2))


class PyramidBlock(nn.Module):
    """Pre-norm attention and MLP, after a downsampling in the first block of a stage. The norms' eps is 1e-5."""

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: int, downsample: nn.Module | None):
        from timm.layers import DropPath, Mlp

        super().__init__()
        self.downsample = nn.Identity() if downsample is None else downsample
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.drop_path = DropPath()

    def forward(self, x: Tensor, context: Any) -> Tensor:
        x = self.downsample(x)
        x = x + self.drop_path(self.attn(self.norm1(x), context))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PyramidEncoder(nn.Module, ABC):
    """`encoder(images, mask) -> (B, N, D)`: a raster of the tokens of 32 pixels of the whole or compacted image.

    Parameter names are the official ones (implus/UM-MAE).
    """

    num_prefix_tokens = 0
    patch_size = PATCH

    def __init__(self, spec: UMPyramid, image: ImageSpec, masking: Masking):
        from timm.layers import calculate_drop_path_rates

        super().__init__()
        self.reads = spec.reads
        self.grid = (image.size[0] // PATCH, image.size[1] // PATCH)
        self.patch_values = PATCH**2 * image.channels
        self.embed_dim = spec.widths[-1]
        self.strides, self.widths = tuple(TOKEN << i for i in range(len(spec.depths))), tuple(spec.widths)
        self.merge = (TOKEN << len(spec.depths) - 1) // PATCH
        self.grad_checkpointing = False
        self.depths = spec.depths
        self.input = DenseInput(image)
        self.patch_embed = TokenEmbed(image.channels, spec.widths[0], spec.patch_norm)
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(spec.depths):
            for i in range(depth):
                first = stage > 0 and i == 0
                downsample = Downsample(*spec.widths[stage - 1 : stage + 1], spec.patch_norm) if first else None
                self.blocks.append(spec.block(stage, downsample))
        for block, rate in zip(self.blocks, calculate_drop_path_rates(spec.drop_path, len(self.blocks)), strict=True):
            block.drop_path.drop_prob = rate
        self.norm = nn.LayerNorm(self.embed_dim, eps=1e-6)
        self.apply(_init)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        for name, exists in (("mask_token", self.reads == "all"), ("vis_mask_token", masking.replaces)):
            if exists:
                self.register_parameter(name, nn.Parameter(0.02 * torch.randn(1, 1, spec.widths[0])))

    @abstractmethod
    def contexts(self, stage: int, places: Tensor, compact: bool) -> tuple[Any, Any]:
        """Returns the arguments of the even and of the odd blocks of a stage, beside their tokens.

        places: (B or 1, H, W, 2) int64, row and column, in the whole grid of tokens of 4 pixels, of the first such
            token of each of this stage's. compact: whether it is of a compacted image.
        """

    def position(self, x: Tensor, places: Tensor) -> Tensor:
        """Tokens of the first stage with their positions, if the encoder has position embeddings."""
        return x

    def forward(self, images: Tensor, mask: Mask) -> Tensor:
        """images: (B, H, W, C) uint8, or normalised floats."""
        if self.reads == "all":
            every = torch.arange(self.grid[0] * self.grid[1], device=images.device).expand(len(images), -1)
            x = self.embed(images, every, self.grid[1])
            return self.transform(mask_token(x, mask.mask.view(-1, *self.grid), self.mask_token[0, 0]))
        x = self.embed(images, mask.ids_keep, mask.grid[1] // 2)
        blocks = (mask.grid[0] // 2, mask.grid[1] // 2)
        if mask.secondary is not None:
            # Replaced patches are gathered all the same: the token comes in only behind the norm, and to put the others
            # in their places by `unshuffle` moves more bytes of the map than it saves of pixels. On a CPU, where it
            # saves products, the embedding of 64 images took 52.8 ms in place of 55.2, 1.05 times as fast: less than
            # 0.1 ms of the 100 of an image's step (rows in bench/results/secondary_*.jsonl).
            x = mask_token(x, mask.secondary.view(-1, *blocks), self.patch_embed.norm(self.vis_mask_token)[0, 0])
        keep, side = mask.ids_keep.view(-1, *blocks), PATCH // TOKEN
        first = side * torch.stack([keep // mask.grid[1], keep % mask.grid[1]], dim=-1)
        first = first.repeat_interleave(side, 1).repeat_interleave(side, 2)
        return self.transform(x, first + raster((side, side), keep.device).repeat(1, *blocks, 1))

    def embed(self, images: Tensor, ids: Tensor, columns: int) -> Tensor:
        """(B, h, w, D) tokens of the image that patches `ids` make, `columns` of them side by side."""
        dtype = compute_dtype(self.norm.weight)
        return self.patch_embed(self.input.tokens(images, ids, columns, PATCH, TOKEN, dtype))

    def features(self, images: Tensor) -> Tensor:
        """(B, N, D) of whole, normalised (B, C, H, W) images."""
        return self.transform(self.embed_all(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        return [x.permute(0, 3, 1, 2) for x in self.stages(self.embed_all(images))]

    def embed_all(self, images: Tensor) -> Tensor:
        """(B, h, w, D) tokens of whole, normalised (B, C, H, W) images."""
        return self.patch_embed(cut(images.permute(0, 2, 3, 1), TOKEN))

    def layers(self) -> list[tuple[str, ...]]:
        return [("patch_embed", "pos_embed"), *((f"blocks.{i}",) for i in range(len(self.blocks)))]

    def take_norm(self) -> nn.Module:
        return take_module(self, "norm")

    def transform(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """The last stage's tokens, normalised. places: of the tokens of a compacted image."""
        return self.norm(self.stages(x, places)[-1].flatten(1, 2))

    def stages(self, x: Tensor, places: Tensor | None = None) -> list[Tensor]:
        """(B, h, w, C) after each stage. places: see `transform`."""
        compact, maps = places is not None, []
        if places is None:
            places = raster(x.shape[1:3], x.device)
        x = self.position(x, places)
        blocks = iter(self.blocks)
        for stage, depth in enumerate(self.depths):
            contexts = self.contexts(stage, places, compact)
            places = places[:, ::2, ::2]
            for i in range(depth):
                block, context = next(blocks), contexts[i % 2]
                x = checkpoint(block, x, context, use_reentrant=False) if self.grad_checkpointing else block(x, context)
            maps.append(x)
        return maps


def raster(grid: tuple[int, int], device: torch.device) -> Tensor:
    """(1, H, W, 2) int64: the row and column of every cell."""
    rows, columns = (torch.arange(n, device=device) for n in grid)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)[None]


def _init(module: nn.Module) -> None:
    """The official initialisation (models_mae_swin.py `_init_weights`)."""
    init_transformer(module)
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(module.bias)
