"""Swin transformers from timm. May import timm, L1 and L0."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from fastmim_kernels import window_attention

from ...config.fields import check_bounds, check_types
from ...parts import ImageSpec, Masking
from ...tokens import Mask, run_blocks
from .checks import check_masking, check_size, check_token_layer
from .create import TimmEncoder, create, given, integer_buffers, take_module
from .dense import DenseInput, MaskToken, compute_dtype, convolve

if TYPE_CHECKING:
    from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock


@dataclass(frozen=True)
class Swin(TimmEncoder):
    """A timm Swin with a learned token for what is hidden (SimMIM, arXiv:2111.09886, section 3).

    With a uniform masking it can read visible patches only, as UM-MAE's does, but is timm's in everything else.
    """

    name: str = "swin_base_patch4_window7_224"
    """timm model name."""
    window: int | None = None
    """Side of the attention windows, tokens; None = the model's own. A stage of fewer tokens is one window."""
    patch_size: int | None = None
    """Side of a token of the first stage, pixels; None = the model's own."""
    embed_dim: int | None = None
    """Width of the first stage; None = the model's own."""
    depths: tuple[int, ...] | None = None
    """Blocks of each stage; None = the model's own."""
    num_heads: tuple[int, ...] | None = None
    """Attention heads of each stage; None = the model's own."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block, growing linearly from 0."""
    reads: Literal["visible", "all"] = "all"
    """Input of the encoder: the whole image, or the half as large one of the visible patches of a uniform mask."""
    fill: Literal["none", "mean"] = "none"
    """Content of hidden pixels: their own values, which "replace" at layer 0 keeps from the encoder, or their image's
    mean colour."""
    token: Literal["replace", "add", "gated"] = "replace"
    """Way in which the learned token stands for hidden tokens, see `MaskToken`."""
    token_layer: int = 0
    """Place of the learned token: 0 and 1 = before the first stage, k = before the blocks of stage k."""

    def __post_init__(self):
        check_types(self, "encoder.")
        check_bounds(self, "encoder.", "window", "patch_size", "embed_dim", "depths", "num_heads", at_least=1)
        check_bounds(self, "encoder.", "drop_path", at_least=0, below=1)
        check_bounds(self, "encoder.", "token_layer", at_least=0)

    def timm_args(self, size: tuple[int, int]) -> dict[str, Any]:
        own = given(
            window_size=self.window,
            patch_size=self.patch_size,
            embed_dim=self.embed_dim,
            depths=self.depths,
            num_heads=self.num_heads,
        )
        if self.reads == "visible":  # of the size that was trained on, which fixes the windows, but taking any
            fixed = {"img_size": (size[0] // 2, size[1] // 2), "dynamic_img_size": True}
        else:
            fixed = {"img_size": size}
        return fixed | own

    def build(self, image: ImageSpec, masking: Masking) -> nn.Module:
        """
        Raises:
            ValueError: timm has no such Swin, or the image size, the masking or `token_layer` does not fit it.
        """
        from timm.models.swin_transformer import SwinTransformer

        check_masking(masking, self.reads)
        args = self.timm_args(image.size)
        swin = create(self.name, SwinTransformer, in_chans=image.channels, drop_path_rate=self.drop_path, **args)
        check_size(image.size, swin.feature_info[-1]["reduction"] * (1 + (self.reads == "visible")), self.name)
        last = len(swin.layers) - (self.reads == "visible")  # whose tokens are not larger than a patch
        check_token_layer(self.token_layer, last, self.name)
        return SwinEncoder(self, swin, image, masking)


class SwinEncoder(nn.Module):
    """`encoder(images, mask) -> (B, L, D)`: one token for each patch, which is the square of a token of the last stage.

    Reading visible patches, it is (B, K / 4, D): a patch is half as wide, and a token stands for four visible ones,
    side by side as their blocks are. Masks with a `secondary` have the token replace those patches.

    `backbone` is timm's model, so an export is a copy; training runs its blocks on the fused `window_attention`, which
    rounds otherwise than timm. Its initialisation is the official one: normal of deviation 0.02 in linear layers and
    tables, torch's default in the patch embedding.
    """

    num_prefix_tokens = 0

    def __init__(self, spec: Swin, swin: SwinTransformer, image: ImageSpec, masking: Masking):
        super().__init__()
        self.reads, self.merge = spec.reads, 2 if spec.reads == "visible" else 1
        self.patch_size: int = swin.feature_info[-1]["reduction"] // self.merge
        self.patch_values: int = self.patch_size**2 * image.channels
        self.grid = (image.size[0] // self.patch_size, image.size[1] // self.patch_size)
        self.embed_dim: int = swin.num_features
        self.strides = tuple(stage["reduction"] for stage in swin.feature_info)
        self.widths = tuple(stage["num_chs"] for stage in swin.feature_info)
        self.grad_checkpointing = False
        self.input = DenseInput(image, spec.fill)
        self.backbone = swin
        integer_buffers(swin)
        for stage in swin.layers:
            for block in stage.blocks:
                block.register_buffer("codes", window_codes(block), persistent=False)
        if spec.reads == "all" or masking.replaces:
            self.token_stage = max(spec.token_layer, 1) - 1
            self.token = MaskToken(swin.feature_info[self.token_stage]["num_chs"], spec.token)

    def forward(self, images: Tensor, mask: Mask) -> Tensor:
        """images: (B, H, W, C) uint8, or normalised floats."""
        dtype = compute_dtype(self.backbone.patch_embed.proj.weight)
        rows, columns = self.grid
        embed = self.backbone.patch_embed
        if self.reads == "all":
            x = embed(self.input(images, mask, dtype))
            return self.normed(self.stages(x, mask.mask.view(-1, rows, columns)))
        token = embed.patch_size[0]
        x = self.input.tokens(images, mask.ids_keep, columns // 2, self.patch_size, token, dtype)
        replaced = None if mask.secondary is None else mask.secondary.view(-1, rows // 2, columns // 2)
        return self.normed(self.stages(embed.norm(convolve(embed.proj, x)), replaced))

    def features(self, images: Tensor) -> Tensor:
        """(B, L, D) of whole, normalised (B, C, H, W) images: timm's `forward_features`, bit for bit in evaluation."""
        return self.normed(self.stages(self.backbone.patch_embed(images), exact=not self.training))

    def maps(self, images: Tensor) -> list[Tensor]:
        maps = self.stages(self.backbone.patch_embed(images), exact=not self.training)
        return [x.permute(0, 3, 1, 2) for x in maps]

    def layers(self) -> list[tuple[str, ...]]:
        """The downsampling behind a stage, which timm has in front of the next, is of that stage's last block."""
        layers = [("backbone.patch_embed",)]
        for i, stage in enumerate(self.backbone.layers):
            layers += [(f"backbone.layers.{i}.blocks.{j}",) for j in range(len(stage.blocks))]
            layers[-1] += (f"backbone.layers.{i + 1}.downsample",)
        return layers

    def take_norm(self) -> nn.Module:
        return take_module(self, "backbone.norm")

    def normed(self, maps: list[Tensor]) -> Tensor:
        """The last stage's tokens, normalised."""
        return self.backbone.norm(maps[-1]).flatten(1, 2)

    def stages(self, x: Tensor, hidden: Tensor | None = None, exact: bool = False) -> list[Tensor]:
        """(B, h, w, C) after each of timm's stages on embedded (B, H, W, D), with the token for the patches
        (B, rows, columns) `hidden`; exact: to timm's bits."""
        maps = []
        for i, stage in enumerate(self.backbone.layers):
            x = stage.downsample(x)
            if hidden is not None and i == self.token_stage:
                x = self.token(x, hidden)
            blocks = [block if exact else partial(run_block, block) for block in stage.blocks]
            x = run_blocks(blocks, x, self.grad_checkpointing)
            maps.append(x)
        return maps


def window_codes(block: SwinTransformerBlock) -> Tensor:
    """(1, H, W) int32: the places of tokens in their windows, as `window_attention` and timm's tables number them."""
    rows, columns = (
        (torch.arange(n) - s) % w
        for n, s, w in zip(block.input_resolution, block.shift_size, block.window_size, strict=True)
    )
    return -(rows[:, None] * (2 * block.window_size[1] - 1) + columns)[None].int()


def run_block(block: SwinTransformerBlock, x: Tensor) -> Tensor:
    """timm's block on (B, H, W, C), attention on the tokens where they lie; its own where windows do not divide them,
    which it then pads."""
    if any(n % w for n, w in zip(x.shape[1:3], block.window_size, strict=True)):
        return block(x)
    attn, table = block.attn, block.attn.relative_position_bias_table
    y = window_attention(
        attn.qkv(block.norm1(x)),
        block.codes,
        table.t().to(torch.promote_types(table.dtype, torch.float32)),
        num_heads=attn.num_heads,
        window=block.window_size,
        shift=block.shift_size,
        origin=len(table) // 2,
        scale=attn.scale,
    )
    x = x + block.drop_path1(attn.proj_drop(attn.proj(y)))
    return x + block.drop_path2(block.mlp(block.norm2(x)))
