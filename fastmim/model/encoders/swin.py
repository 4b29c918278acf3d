"""Swin transformers from timm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastmim_kernels import window_attention

from ...config.fields import check_bounds, check_types
from ...parts import ImageSpec, Masking
from ...tokens import Mask, run_blocks
from .base import EncoderModule
from .checks import check_masking, check_size, check_token_layer
from .create import TimmEncoder, create, overrides, store_buffers_as_int8, take_module
from .layers import MaskToken, compute_dtype, convolve


@dataclass(frozen=True)
class Swin(TimmEncoder):
    """A timm Swin with a learned token for hidden patches (SimMIM, arXiv:2111.09886, section 3).

    With a uniform masking the encoder can read visible patches only, as UM-MAE's Swin does.
    """

    name: str = "swin_base_patch4_window7_224"
    """timm model name."""
    window: int | None = None
    """Side of the attention windows, tokens; None = the model's own. A smaller map is one window."""
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
    """Input of the encoder: "all" = the whole image, "visible" = an image of the visible patches.

    The visible patches of a uniform mask form an image of half the side.
    """
    fill: Literal["none", "mean"] = "none"
    """Content of hidden pixels: "none" = unchanged, "mean" = the mean colour of the image."""
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
        own = overrides(
            window_size=self.window,
            patch_size=self.patch_size,
            embed_dim=self.embed_dim,
            depths=self.depths,
            num_heads=self.num_heads,
        )
        if self.reads == "visible":
            # The training size fixes the windows. timm must accept whole images too, which are larger.
            fixed = {"img_size": (size[0] // 2, size[1] // 2), "dynamic_img_size": True}
        else:
            fixed = {"img_size": size}
        return fixed | own

    def build(self, image: ImageSpec, masking: Masking) -> SwinEncoder:
        """Builds the network.

        Raises:
            ValueError: timm has no such Swin, or the image size, the masking or `token_layer` does not fit it.
        """
        from timm.models.swin_transformer import SwinTransformer

        check_masking(masking, self.reads)
        args = self.timm_args(image.size)
        swin = create(self.name, SwinTransformer, in_chans=image.channels, drop_path_rate=self.drop_path, **args)
        compact = self.reads == "visible"
        check_size(image.size, swin.feature_info[-1]["reduction"] * (2 if compact else 1), self.name)
        # In a compacted image, a token of the last stage is larger than a patch, so the mask token cannot join there.
        check_token_layer(self.token_layer, len(swin.layers) - compact, self.name)
        return SwinEncoder(self, swin, image, masking)


class SwinEncoder(EncoderModule):
    """The network of `Swin`: `encoder(images, mask) -> (B, L, D)`, one token of the last stage per patch.

    If the encoder reads visible patches, a patch is half as wide as a token. The network returns (B, K / 4, D), and a
    token stands for four visible patches of neighbouring blocks. The mask token then replaces the patches that a
    mask's `secondary` names.

    `backbone` is timm's model, so an export is a copy. Training runs the blocks on the fused `window_attention`, which
    rounds differently from timm. The initialisation is the official one: normal with deviation 0.02 in linear layers
    and tables, torch's default in the patch embedding.
    """

    has_visible_token = True

    backbone: Any
    """timm's model."""

    def __init__(self, spec: Swin, swin: Any, image: ImageSpec, masking: Masking):
        merge = 2 if spec.reads == "visible" else 1
        stages = swin.feature_info
        super().__init__(
            image,
            patch_size=stages[-1]["reduction"] // merge,
            embed_dim=swin.num_features,
            strides=[stage["reduction"] for stage in stages],
            widths=[stage["num_chs"] for stage in stages],
            reads=spec.reads,
            merge=merge,
            fill=spec.fill,
        )
        self.backbone = swin
        store_buffers_as_int8(swin)
        for stage in swin.layers:
            for block in stage.blocks:
                block.register_buffer("codes", window_codes(block), persistent=False)
        if spec.reads == "all" or masking.replaces:
            self.token_stage = max(spec.token_layer, 1) - 1
            self.token = MaskToken(stages[self.token_stage]["num_chs"], spec.token)

    def forward(self, images: Tensor, mask: Mask) -> Tensor:
        dtype = compute_dtype(self.backbone.patch_embed.proj.weight)
        rows, columns = self.grid
        embed = self.backbone.patch_embed
        if self.reads == "all":
            x = embed(self.input(images, mask, dtype))
            return self.last_tokens(self.stages(x, mask.mask.view(-1, rows, columns)))
        token = embed.patch_size[0]
        x = self.input.tokens(images, mask.ids_keep, columns // 2, self.patch_size, token, dtype)
        replaced = None if mask.secondary is None else mask.secondary.view(-1, rows // 2, columns // 2)
        return self.last_tokens(self.stages(embed.norm(convolve(embed.proj, x)), replaced))

    def features(self, images: Tensor) -> Tensor:
        """Encodes whole images: (B, L, D); in evaluation as timm's `forward_features` does, bit for bit."""
        return self.last_tokens(self.stages(self.backbone.patch_embed(images), exact=not self.training))

    def maps(self, images: Tensor) -> list[Tensor]:
        maps = self.stages(self.backbone.patch_embed(images), exact=not self.training)
        return [x.permute(0, 3, 1, 2) for x in maps]

    def layers(self) -> list[tuple[str, ...]]:
        """Returns prefixes of parameter names, for layer decay.

        The downsampling after a stage counts to the stage's last block. timm keeps that downsampling in the next stage.
        """
        layers: list[tuple[str, ...]] = [("backbone.patch_embed",)]
        for i, stage in enumerate(self.backbone.layers):
            layers += [(f"backbone.layers.{i}.blocks.{j}",) for j in range(len(stage.blocks))]
            layers[-1] += (f"backbone.layers.{i + 1}.downsample",)
        return layers

    def take_norm(self) -> nn.Module:
        return take_module(self, "backbone.norm")

    def last_tokens(self, maps: list[Tensor]) -> Tensor:
        """Returns the normalised tokens of the last stage."""
        return self.backbone.norm(maps[-1]).flatten(1, 2)

    def stages(self, x: Tensor, hidden: Tensor | None = None, exact: bool = False) -> list[Tensor]:
        """Runs timm's stages and returns the (B, h, w, C) output of each.

        Args:
            x: (B, H, W, D) embedded tokens.
            hidden: (B, rows, columns) bool patches that the mask token stands for.
            exact: compute timm's bits, without the fused attention.
        """
        maps = []
        for i, stage in enumerate(self.backbone.layers):
            x = stage.downsample(x)
            if hidden is not None and i == self.token_stage:
                x = self.token(x, hidden)
            blocks = [block if exact else partial(run_block, block) for block in stage.blocks]
            x = run_blocks(blocks, x, self.grad_checkpointing)
            maps.append(x)
        return maps


def window_codes(block: Any) -> Tensor:
    """Numbers the place of each token in its window: (1, H, W) int32.

    `window_attention` and timm's tables use these numbers.
    """
    rows, columns = (
        (torch.arange(n) - s) % w
        for n, s, w in zip(block.input_resolution, block.shift_size, block.window_size, strict=True)
    )
    return -(rows[:, None] * (2 * block.window_size[1] - 1) + columns)[None].int()


def run_block(block: Any, x: Tensor) -> Tensor:
    """Runs a timm block on a (B, H, W, C) map with the fused window attention.

    timm pads a map that the windows do not divide; such a map goes through timm's own code.
    """
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
