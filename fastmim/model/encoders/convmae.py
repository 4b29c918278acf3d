"""ConvMAE: two stages of masked convolutions, then a transformer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ...config.fields import check_bounds, check_types
from ...parts import Encoder, ImageSpec, Masking
from ...tokens import Mask, as_map, init_transformer, patchify, run_blocks, sincos_position_embedding, take, unpatchify
from .base import EncoderModule
from .checks import check_size
from .create import take_module
from .layers import compute_dtype, convolve, space_to_depth


@dataclass(frozen=True)
class ConvMAE(Encoder):
    """Two stages of masked convolutions, then a ViT without class token (arXiv:2205.03892).

    Official code: models_convmae.py. The product of `patch_sizes` is the side of a patch. A patch is hidden in every
    stage at once. The outputs of all stages for a visible patch are added up before the last norm.
    """

    patch_sizes: tuple[int, int, int] = (4, 2, 2)
    """Downsampling before each stage; the product is the patch side in pixels."""
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

    def build(self, image: ImageSpec, masking: Masking) -> ConvMAEEncoder:
        """Builds the network.

        Raises:
            ValueError: the image does not consist of whole patches.
        """
        p = math.prod(self.patch_sizes)
        check_size(image.size, p, "ConvMAE")
        return ConvMAEEncoder(self, image)


class ConvPatchEmbed(nn.Module):
    """A strided convolution on squares from `space_to_depth`, a norm and a GELU."""

    def __init__(self, channels: int, dim: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(convolve(self.proj, x)))


class ConvMlp(nn.Module):
    """An MLP of 1x1 convolutions on channels-last maps."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, 4 * dim, 1)
        self.fc2 = nn.Conv2d(4 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.fc2, F.gelu(convolve(self.fc1, x)))


class ConvBlock(nn.Module):
    """A transformer block with a 5x5 depthwise convolution over visible positions as its attention."""

    def __init__(self, dim: int, drop_path: float):
        from timm.layers.drop import DropPath

        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        self.attn = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv2 = nn.Conv2d(dim, dim, 1)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.mlp = ConvMlp(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Mask | None) -> Tensor:
        """Maps (B, K, h, w, C) visible patches; without a mask the whole image is one patch (K = 1)."""
        x = x + self.drop_path(convolve(self.conv2, self.depthwise(convolve(self.conv1, self.norm1(x)), mask)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def depthwise(self, x: Tensor, mask: Mask | None) -> Tensor:
        """Convolves the whole map, with zeros at hidden patches, and returns the visible patches.

        Only this convolution needs neighbours. Its 25 operations per position and channel are few compared with the
        several thousand operations of the layers that compute visible positions only.
        """
        if mask is None:
            return self.attn(x[:, 0].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, None]
        side, rows = x.shape[2], x.flatten(2)
        index = mask.ids_keep[..., None].expand_as(rows)
        rows = rows.new_zeros(len(rows), mask.ids.shape[1], rows.shape[2]).scatter(1, index, rows)
        image = self.attn(unpatchify(rows, side, mask.grid).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return take(patchify(image, side), mask.ids_keep).view(x.shape)


class ConvMAEEncoder(EncoderModule):
    """The network of `ConvMAE`: `encoder(images, mask) -> (B, K, D)`, the visible patches.

    Tokens are in the order of `mask.ids_keep`. Hidden patches never reach visible ones: kernels are as large as their
    strides, or read zeros at hidden patches. So hidden patches are not computed, and the result is the official one.
    Parameter names are the official ones.
    """

    stage1_output_decode: nn.Conv2d | None
    """Projection of the first stage's output onto the tokens."""
    stage2_output_decode: nn.Conv2d | None
    """Projection of the second stage's output onto the tokens."""

    def __init__(self, spec: ConvMAE, image: ImageSpec):
        from timm.layers.drop import calculate_drop_path_rates
        from timm.models.vision_transformer import Block

        (p1, p2, p3), (c1, c2, c3) = spec.patch_sizes, spec.embed_dims
        super().__init__(
            image,
            patch_size=p1 * p2 * p3,
            embed_dim=c3,
            strides=(p1, p1 * p2, p1 * p2 * p3),
            widths=spec.embed_dims,
            reads="visible",
        )
        self.patch_sizes = spec.patch_sizes
        self.patch_embed1 = ConvPatchEmbed(image.channels, c1, p1)
        self.patch_embed2 = ConvPatchEmbed(c1, c2, p2)
        self.patch_embed3 = ConvPatchEmbed(c2, c3, p3)
        self.patch_embed4 = nn.Linear(c3, c3)
        self.stage1_output_decode = nn.Conv2d(c1, c3, p2 * p3, stride=p2 * p3)
        self.stage2_output_decode = nn.Conv2d(c2, c3, p3, stride=p3)
        pos_embed = sincos_position_embedding(c3, self.grid, num_prefix_tokens=0)
        self.pos_embed = nn.Parameter(pos_embed, requires_grad=False)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        rates: Any = calculate_drop_path_rates(spec.drop_path, sum(spec.depths))
        first, second = spec.depths[0], spec.depths[0] + spec.depths[1]
        self.blocks1 = nn.ModuleList(ConvBlock(c1, rate) for rate in rates[:first])
        self.blocks2 = nn.ModuleList(ConvBlock(c2, rate) for rate in rates[first:second])
        self.blocks3 = nn.ModuleList(
            Block(c3, spec.num_heads, qkv_bias=True, norm_layer=norm, drop_path=rate) for rate in rates[second:]
        )
        self.norm = norm(c3)
        self.apply(init_transformer)
        nn.init.xavier_uniform_(self.patch_embed3.proj.weight.flatten(1))

    def forward(self, images: Tensor, mask: Mask) -> Tensor:
        dtype = compute_dtype(self.patch_embed4.weight)
        token, side = self.patch_sizes[0], self.patch_size // self.patch_sizes[0]
        x = self.input.patches(images, mask.ids_keep, self.patch_size, dtype, token)
        return self.join(*self.stages(x.unflatten(1, (-1, side, side)), self.pos_embed[0][mask.ids_keep], mask))

    def features(self, images: Tensor) -> Tensor:
        return self.join(*self.read_all(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Returns the map of each stage; the last is the transformer's alone, without the sum in `features`."""
        first, second, tokens = self.read_all(images)
        return [first[:, 0].permute(0, 3, 1, 2), second[:, 0].permute(0, 3, 1, 2), as_map(tokens, self.grid)]

    def read_all(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the stages on whole, normalised (B, C, H, W) images; see `stages`."""
        squares = space_to_depth(images.permute(0, 2, 3, 1)[:, None], self.patch_sizes[0])
        return self.stages(squares, self.pos_embed, None)

    def layers(self) -> list[tuple[str, ...]]:
        """Returns prefixes of parameter names; everything before the transformer is stem (util/lr_decay.py)."""
        embeds = tuple(f"patch_embed{i}" for i in range(1, 5))
        stem = (*embeds, "blocks1", "blocks2", "pos_embed")
        return [stem, *((f"blocks3.{i}",) for i in range(len(self.blocks3)))]

    def take_norm(self) -> nn.Module:
        """Removes the last norm and the sum before it, both of which the official fine-tuned encoder lacks."""
        self.stage1_output_decode = self.stage2_output_decode = None
        return take_module(self, "norm")

    def stages(self, x: Tensor, positions: Tensor, mask: Mask | None) -> tuple[Tensor, Tensor, Tensor]:
        """Runs each stage.

        Args:
            x: (B, K, h, w, p1*p1*C) pixels of visible patches from `space_to_depth`; without a mask, of the whole image
                as one patch.
            positions: (B or 1, L, D) position embeddings of the transformer.
            mask: the hidden patches, or None.

        Returns:
            The (B, K, h, w, C) outputs of the first two stages, and the (B, L, D) tokens of the transformer.
        """
        _, p2, p3 = self.patch_sizes
        first = self.run([partial(block, mask=mask) for block in self.blocks1], self.patch_embed1(x))
        second = self.patch_embed2(space_to_depth(first, p2))
        second = self.run([partial(block, mask=mask) for block in self.blocks2], second)
        x = self.patch_embed4(self.patch_embed3(space_to_depth(second, p3)).flatten(1, 3)) + positions
        return first, second, self.run(self.blocks3, x)

    def join(self, first: Tensor, second: Tensor, tokens: Tensor) -> Tensor:
        """Adds the projected outputs of the first two stages to the tokens and normalises the sum."""
        stage1, stage2 = project(self.stage1_output_decode, first), project(self.stage2_output_decode, second)
        return self.norm(tokens + stage1 + stage2)

    def run(self, blocks: Iterable[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        """Runs blocks one after the other, with gradient checkpointing if that is on."""
        return run_blocks(blocks, x, self.grad_checkpointing)


def project(conv: nn.Conv2d | None, x: Tensor) -> Tensor | float:
    """Projects a stage's (B, K, h, w, C) output onto one token per patch; 0 without a projection."""
    return 0.0 if conv is None else convolve(conv, space_to_depth(x, conv.kernel_size[0])).flatten(1, 3)
