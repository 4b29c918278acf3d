"""ConvMAE's hybrid of convolutional stages and a transformer. May import timm, L1 and L0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastmim_kernels.patch_gather import patch_gather

from ...config.fields import check_bounds, check_types
from ...parts import Encoder, ImageSpec, Masking
from ...tokens import Mask, as_map, init_transformer, patchify, run_blocks, sincos_position_embedding, take, unpatchify
from .checks import check_size
from .create import take_module
from .dense import compute_dtype, convolve, cut


@dataclass(frozen=True)
class ConvMAE(Encoder):
    """Two stages of masked convolutions, then a ViT without class token (arXiv:2205.03892; models_convmae.py).

    Patches of the product of `patch_sizes` are hidden, in every stage at once. What the stages give for a visible
    patch is added up before the last norm.
    """

    patch_sizes: tuple[int, int, int] = (4, 2, 2)
    """Downsampling in front of each stage; their product is the patch side in pixels."""
    embed_dims: tuple[int, int, int] = (256, 384, 768)
    """Width of each stage."""
    depths: tuple[int, int, int] = (2, 2, 11)
    """Blocks of each stage: convolutional, convolutional, transformer."""
    num_heads: int = 12
    """Attention heads of the transformer."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block of all stages, growing linearly from 0."""

    def __post_init__(self):
        check_types(self, "encoder.")
        check_bounds(self, "encoder.", "patch_sizes", "embed_dims", "depths", "num_heads", at_least=1)
        check_bounds(self, "encoder.", "drop_path", at_least=0, below=1)
        if self.embed_dims[2] % self.num_heads or self.embed_dims[2] % 4:
            raise ValueError(
                f"encoder.embed_dims: the last, {self.embed_dims[2]}, must be a multiple of 4 and of "
                f"encoder.num_heads={self.num_heads}"
            )

    def build(self, image: ImageSpec, masking: Masking) -> nn.Module:
        """
        Raises:
            ValueError: the image is not made of whole patches, or masks replace visible patches, for which ConvMAE has
                no token.
        """
        p = math.prod(self.patch_sizes)
        check_size(image.size, p, "ConvMAE")
        if masking.replaces:
            raise ValueError(
                "encoder: ConvMAE has no token for visible patches that are replaced; use UniformMasking(secondary=0)"
            )
        return ConvMAEEncoder(self, image)


class PatchEmbed(nn.Module):
    """Convolution on squares as `cut`, norm, GELU."""

    def __init__(self, channels: int, dim: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(convolve(self.proj, x)))


class ConvMlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, 4 * dim, 1)
        self.fc2 = nn.Conv2d(4 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.fc2, F.gelu(convolve(self.fc1, x)))


class ConvBlock(nn.Module):
    """A transformer block with a 5x5 depthwise convolution over visible positions as its attention."""

    def __init__(self, dim: int, drop_path: float):
        from timm.layers import DropPath

        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        self.attn = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv2 = nn.Conv2d(dim, dim, 1)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.mlp = ConvMlp(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Mask | None) -> Tensor:
        """x: (B, K, h, w, C), the visible patches; or, without a mask, the whole image as one (K = 1)."""
        x = x + self.drop_path(convolve(self.conv2, self.depthwise(convolve(self.conv1, self.norm1(x)), mask)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def depthwise(self, x: Tensor, mask: Mask | None) -> Tensor:
        """The convolution needs neighbours, so it alone sees the whole map, with zeros where patches are hidden.

        It costs 25 operations a position and channel, the layers that see visible positions only several thousand.
        """
        if mask is None:
            return self.attn(x[:, 0].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, None]
        side, rows = x.shape[2], x.flatten(2)
        index = mask.ids_keep[..., None].expand_as(rows)
        rows = rows.new_zeros(len(rows), mask.ids.shape[1], rows.shape[2]).scatter(1, index, rows)
        image = self.attn(unpatchify(rows, side, mask.grid).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return take(patchify(image, side), mask.ids_keep).view(x.shape)


class ConvMAEEncoder(nn.Module):
    """`encoder(images, mask) -> (B, K, D)`: visible patches in the order of `mask.ids_keep`.

    Hidden patches reach visible ones nowhere: kernels are as large as their strides, or read zeros there. So hidden
    ones are not computed, and the result is the official one. Parameter names are the official ones.
    """

    num_prefix_tokens = 0
    reads = "visible"
    merge = 1

    def __init__(self, spec: ConvMAE, image: ImageSpec):
        from timm.layers import calculate_drop_path_rates
        from timm.models.vision_transformer import Block

        super().__init__()
        (p1, p2, p3), (c1, c2, c3) = spec.patch_sizes, spec.embed_dims
        self.patch_sizes, self.patch_size, self.embed_dim = spec.patch_sizes, p1 * p2 * p3, c3
        self.grid = (image.size[0] // self.patch_size, image.size[1] // self.patch_size)
        self.strides, self.widths = (p1, p1 * p2, self.patch_size), spec.embed_dims
        self.patch_values: int = self.patch_size**2 * image.channels
        self.grad_checkpointing = False
        self.patch_embed1 = PatchEmbed(image.channels, c1, p1)
        self.patch_embed2 = PatchEmbed(c1, c2, p2)
        self.patch_embed3 = PatchEmbed(c2, c3, p3)
        self.patch_embed4 = nn.Linear(c3, c3)
        self.stage1_output_decode = nn.Conv2d(c1, c3, p2 * p3, stride=p2 * p3)
        self.stage2_output_decode = nn.Conv2d(c2, c3, p3, stride=p3)
        self.pos_embed = nn.Parameter(
            sincos_position_embedding(c3, self.grid, num_prefix_tokens=0), requires_grad=False
        )
        norm = partial(nn.LayerNorm, eps=1e-6)
        rates = calculate_drop_path_rates(spec.drop_path, sum(spec.depths))
        first, second = spec.depths[0], spec.depths[0] + spec.depths[1]
        self.blocks1 = nn.ModuleList(ConvBlock(c1, rate) for rate in rates[:first])
        self.blocks2 = nn.ModuleList(ConvBlock(c2, rate) for rate in rates[first:second])
        self.blocks3 = nn.ModuleList(
            Block(c3, spec.num_heads, qkv_bias=True, norm_layer=norm, drop_path=rate) for rate in rates[second:]
        )
        self.norm = norm(c3)
        self.register_buffer("mean", torch.tensor(image.mean), persistent=False)
        self.register_buffer("std", torch.tensor(image.std), persistent=False)
        self.apply(init_transformer)
        nn.init.xavier_uniform_(self.patch_embed3.proj.weight.flatten(1))

    def forward(self, images: Tensor, mask: Mask) -> Tensor:
        """images: (B, H, W, C) uint8, or normalised floats."""
        p, dtype = self.patch_size, compute_dtype(self.patch_embed4.weight)
        token, side = self.patch_sizes[0], p // self.patch_sizes[0]
        x = patch_gather(images, mask.ids_keep, p, self.mean.float(), self.std.float(), dtype, token)
        return self.join(*self.stages(x.unflatten(1, (-1, side, side)), self.pos_embed[0][mask.ids_keep], mask))

    def features(self, images: Tensor) -> Tensor:
        """(B, L, D) of whole, normalised (B, C, H, W) images."""
        return self.join(*self.read_all(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The last is the transformer's alone, without what the first stages add to it in `features`."""
        *first, last = self.read_all(images)
        return [*(x[:, 0].permute(0, 3, 1, 2) for x in first), as_map(last, self.grid)]

    def read_all(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The stages' outputs for whole, normalised (B, C, H, W) images."""
        squares = cut(images.permute(0, 2, 3, 1)[:, None], self.patch_sizes[0])
        return self.stages(squares, self.pos_embed, None)

    def layers(self) -> list[tuple[str, ...]]:
        """Everything in front of the transformer is stem (Alpha-VL/ConvMAE, util/lr_decay.py)."""
        embeds = tuple(f"patch_embed{i}" for i in range(1, 5))
        stem = (*embeds, "blocks1", "blocks2", "pos_embed")
        return [stem, *((f"blocks3.{i}",) for i in range(len(self.blocks3)))]

    def take_norm(self) -> nn.Module:
        """Removes the last norm and what the first stages add to it: the official encoder lacks both afterwards."""
        self.stage1_output_decode = self.stage2_output_decode = None
        return take_module(self, "norm")

    def stages(self, x: Tensor, positions: Tensor, mask: Mask | None) -> tuple[Tensor, Tensor, Tensor]:
        """Runs each stage on pixels, `cut`, of visible patches, or of the whole image as one (see `ConvBlock`).

        Returns: (B, K, h, w, C) twice, and the tokens (B, L, D).
        """
        _, p2, p3 = self.patch_sizes
        first = self.run([partial(block, mask=mask) for block in self.blocks1], self.patch_embed1(x))
        second = self.run([partial(block, mask=mask) for block in self.blocks2], self.patch_embed2(cut(first, p2)))
        x = self.patch_embed4(self.patch_embed3(cut(second, p3)).flatten(1, 3)) + positions
        return first, second, self.run(list(self.blocks3), x)

    def join(self, first: Tensor, second: Tensor, tokens: Tensor) -> Tensor:
        """The tokens, with what the first stages add to them, normalised."""
        stage1, stage2 = self.fused(self.stage1_output_decode, first), self.fused(self.stage2_output_decode, second)
        return self.norm(tokens + stage1 + stage2)

    @staticmethod
    def fused(conv: nn.Conv2d | None, x: Tensor) -> Tensor | float:
        """Returns the part that a stage adds to the tokens in front of the last norm."""
        return 0.0 if conv is None else convolve(conv, cut(x, conv.kernel_size[0])).flatten(1, 3)

    def run(self, blocks: list, x: Tensor) -> Tensor:
        """The blocks one after the other."""
        return run_blocks(blocks, x, self.grad_checkpointing)
