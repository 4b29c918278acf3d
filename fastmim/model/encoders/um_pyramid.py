"""The base of UM-MAE's Swin and PVT: stages of tokens, on a whole image or on a compacted one."""

from __future__ import annotations

import math
from abc import abstractmethod
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
from .base import EncoderModule
from .checks import check_masking, check_size
from .create import take_module
from .layers import compute_dtype, convolve, space_to_depth

TOKEN = 4
"""Side of a token of the first stage, pixels."""
PATCH = 16
"""Side of the patches that are hidden and predicted, pixels."""


@dataclass(frozen=True)
class UMPyramid(Encoder):
    """A pyramid encoder for uniform masking, or for SimMIM on whole images.

    Source: UM-MAE, arXiv:2205.10063, section 3. With reads = "visible", the visible patches, one of each 2x2 block,
    form an image of half the side. With reads = "all", the encoder reads the whole image, with a learned token in place
    of hidden content (implus/UM-MAE `models_simmim_*.py`).
    """

    reads: Literal["visible", "all"] = "visible"
    """Input of the encoder: "visible" = the visible patches, moved together; "all" = the whole image.

    "visible" needs UniformMasking.
    """
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
        """Number of pixels that must divide both sides of the images."""
        return (TOKEN << len(self.depths) - 1) * (2 if self.reads == "visible" else 1)

    @abstractmethod
    def block(self, stage: int, downsample: nn.Module | None) -> PyramidBlock:
        """Builds a block `(x, context) -> x` on (B, H, W, C) tokens.

        Args:
            stage: number of the stage, from 0.
            downsample: module that the block applies first, or None.
        """

    def check(self, size: tuple[int, int], masking: Masking) -> None:
        """Checks that the fields fit each other, the image size and the masking.

        Raises:
            ValueError: fields, image size or masking do not fit.
        """
        stages = max(len(self.widths), 3)  # with three stages, a token of the last one is as large as a patch
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
    """A strided convolution and an optional layer norm, from the pixels of each token to its embedding."""

    def __init__(self, channels: int, dim: int, norm: bool):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, TOKEN, stride=TOKEN)
        self.norm = nn.LayerNorm(dim, eps=1e-6) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, h, w, 4*4*C), from `space_to_depth`, to (B, h, w, D)."""
        return self.norm(convolve(self.proj, x))


class Downsample(nn.Module):
    """An optional layer norm and a strided convolution, which merges 2x2 tokens into one."""

    def __init__(self, dim: int, out_dim: int, norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6) if norm else nn.Identity()
        self.proj = nn.Conv2d(dim, out_dim, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, C) to (B, H/2, W/2, C')."""
        return convolve(self.proj, space_to_depth(self.norm(x), 2))


class PyramidBlock(nn.Module):
    """Pre-norm attention and MLP; the first block of a stage downsamples first. The norms' eps is 1e-5."""

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: int, downsample: nn.Module | None):
        from timm.layers.drop import DropPath
        from timm.layers.mlp import Mlp

        super().__init__()
        self.downsample = nn.Identity() if downsample is None else downsample
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.drop_path = DropPath()

    def forward(self, x: Tensor, context: Any) -> Tensor:
        """Maps a (B, H, W, C) map; `context` is an argument of the attention, see `PyramidEncoder.contexts`."""
        x = self.downsample(x)
        x = x + self.drop_path(self.attn(self.norm1(x), context))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PyramidEncoder(EncoderModule):
    """The network of `UMPyramid`: `encoder(images, mask) -> (B, N, D)`.

    The tokens are a raster of the last stage. The raster is of the whole image, or of the compacted one. Parameter
    names are the official ones (implus/UM-MAE).
    """

    has_visible_token = True

    mask_token: nn.Parameter
    """(1, 1, D) token of hidden patches, if the encoder reads whole images."""
    vis_mask_token: nn.Parameter
    """(1, 1, D) token of secondarily masked patches, if the masking replaces patches."""

    def __init__(self, spec: UMPyramid, image: ImageSpec, masking: Masking):
        from timm.layers.drop import calculate_drop_path_rates

        widths, stages = spec.widths, len(spec.depths)
        super().__init__(
            image,
            patch_size=PATCH,
            embed_dim=widths[-1],
            strides=[TOKEN << i for i in range(stages)],
            widths=widths,
            reads=spec.reads,
            merge=(TOKEN << stages - 1) // PATCH,
        )
        self.depths = spec.depths
        self.patch_embed = TokenEmbed(image.channels, widths[0], spec.patch_norm)
        blocks: list[PyramidBlock] = []
        for stage, depth in enumerate(spec.depths):
            for i in range(depth):
                first = stage > 0 and i == 0
                downsample = Downsample(widths[stage - 1], widths[stage], spec.patch_norm) if first else None
                blocks.append(spec.block(stage, downsample))
        rates: Any = calculate_drop_path_rates(spec.drop_path, len(blocks))
        for block, rate in zip(blocks, rates, strict=True):
            block.drop_path.drop_prob = rate
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(self.embed_dim, eps=1e-6)
        self.apply(_init)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        if self.reads == "all":
            self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, widths[0]))
        if masking.replaces:
            self.vis_mask_token = nn.Parameter(0.02 * torch.randn(1, 1, widths[0]))

    @abstractmethod
    def contexts(self, stage: int, places: Tensor, compact: bool) -> tuple[Any, Any]:
        """Returns the second argument of the even blocks and of the odd blocks of a stage.

        Args:
            stage: number of the stage, from 0.
            places: (B or 1, H, W, 2) int64, row and column of each token of this stage in the whole image, counted in
                tokens of 4 pixels. A larger token has the place of its first token of 4 pixels.
            compact: True if the tokens are of a compacted image.
        """

    def position(self, x: Tensor, places: Tensor) -> Tensor:
        """Adds position embeddings to the tokens of the first stage, if the encoder has any."""
        return x

    def forward(self, images: Tensor, mask: Mask) -> Tensor:
        if self.reads == "all":
            every = torch.arange(self.grid[0] * self.grid[1], device=images.device).expand(len(images), -1)
            x = self.embed(images, every, self.grid[1])
            return self.transform(mask_token(x, mask.mask.view(-1, *self.grid), self.mask_token[0, 0]))
        x = self.embed(images, mask.ids_keep, mask.grid[1] // 2)
        blocks = (mask.grid[0] // 2, mask.grid[1] // 2)
        if mask.secondary is not None:
            # Replaced patches are gathered too, because the token joins after the norm. Placing only the other patches
            # by `unshuffle` moves more bytes of the map than it saves in pixels (bench/results/secondary_*.jsonl).
            x = mask_token(x, mask.secondary.view(-1, *blocks), self.patch_embed.norm(self.vis_mask_token)[0, 0])
        keep, side = mask.ids_keep.view(-1, *blocks), PATCH // TOKEN
        first = side * torch.stack([keep // mask.grid[1], keep % mask.grid[1]], dim=-1)
        first = first.repeat_interleave(side, 1).repeat_interleave(side, 2)
        return self.transform(x, first + raster((side, side), keep.device).repeat(1, *blocks, 1))

    def embed(self, images: Tensor, ids: Tensor, columns: int) -> Tensor:
        """Embeds the image that the patches `ids` form, `columns` of them side by side: (B, h, w, D)."""
        dtype = compute_dtype(self.norm.weight)
        return self.patch_embed(self.input.tokens(images, ids, columns, PATCH, TOKEN, dtype))

    def features(self, images: Tensor) -> Tensor:
        return self.transform(self.embed_all(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        return [x.permute(0, 3, 1, 2) for x in self.stages(self.embed_all(images))]

    def embed_all(self, images: Tensor) -> Tensor:
        """Embeds whole, normalised (B, C, H, W) images: (B, h, w, D)."""
        return self.patch_embed(space_to_depth(images.permute(0, 2, 3, 1), TOKEN))

    def layers(self) -> list[tuple[str, ...]]:
        return [("patch_embed", "pos_embed"), *((f"blocks.{i}",) for i in range(len(self.blocks)))]

    def take_norm(self) -> nn.Module:
        return take_module(self, "norm")

    def transform(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Returns the normalised tokens of the last stage; see `stages`."""
        return self.norm(self.stages(x, places)[-1].flatten(1, 2))

    def stages(self, x: Tensor, places: Tensor | None = None) -> list[Tensor]:
        """Returns the (B, h, w, C) output of each stage.

        Args:
            x: (B, H, W, D) embedded tokens.
            places: places of the tokens of a compacted image, see `contexts`; None = the image is whole.
        """
        compact, maps = places is not None, []
        if places is None:
            places = raster((x.shape[1], x.shape[2]), x.device)
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
    """Returns the row and column of every cell: (1, H, W, 2) int64."""
    rows, columns = (torch.arange(n, device=device) for n in grid)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)[None]


def _init(module: nn.Module) -> None:
    """Initialises a module as the official code does (models_mae_swin.py `_init_weights`)."""
    init_transformer(module)
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
