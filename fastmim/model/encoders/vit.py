"""Plain vision transformers from timm."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastmim_kernels import mask_token

from ...config.fields import brief, check_bounds
from ...parts import ImageSpec, Masking
from ...tokens import Mask, as_map, init_transformer, run_blocks, sincos_position_embedding
from .base import EncoderModule
from .checks import check_masking, check_size, check_token_layer
from .create import TimmTransformer, create_known, take_module
from .layers import MaskToken, compute_dtype


@dataclass(frozen=True)
class ViT(TimmTransformer):
    """A timm ViT with MAE's initialisation, which reads visible patches only (MAE) or whole images."""

    name: str = "vit_base_patch16_224"
    """timm model name."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block, growing linearly from 0."""
    pos: Literal["sincos", "learned"] = "sincos"
    """Positions: MAE's fixed sines and cosines, or learned."""
    reads: Literal["visible", "all"] = "visible"
    """Patches that the encoder reads; the fields below have an effect with "all" only."""

    def __post_init__(self):
        super().__post_init__()
        check_bounds(self, "encoder.", "drop_path", at_least=0, below=1)

    def timm_args(self, size: tuple[int, int]) -> dict[str, Any]:
        return {"img_size": size, "global_pool": "token"} | self.sizes()

    def build(self, image: ImageSpec, masking: Masking) -> ViTEncoder:
        """Builds the network.

        Raises:
            ValueError: timm has no such ViT, the image size does not fit the patches, or the model has parts that
                reading visible patches only does not support.
        """
        import timm

        if not timm.is_model(self.name):
            near = timm.list_models(f"*{self.name[:100]}*")[:3] or timm.list_models("vit_*patch16_224")[:3]
            raise ValueError(f"encoder.name: timm has no model {brief(self.name)}; near it: {', '.join(near)}")
        if problem := misfit(self.name):
            raise ValueError(f"encoder.name: {self.name} is {problem}")
        if self.reads == "all":
            check_masking(masking, self.reads)
        args = self.timm_args(image.size)
        vit = create_known(self.name, in_chans=image.channels, drop_path_rate=self.drop_path, **args)
        check_size(image.size, vit.patch_embed.patch_size[0], self.name)
        check_token_layer(self.token_layer, len(vit.blocks), self.name)
        return ViTEncoder(self, vit, image, masking)


@functools.cache
def misfit(name: str) -> str | None:
    """Returns why this timm model cannot serve as `ViT`, or None."""
    import timm
    from timm.layers.patch_embed import PatchEmbed as TimmPatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):
        vit = timm.create_model(name, num_classes=0)
    if not isinstance(vit, VisionTransformer):
        return f"a {type(vit).__name__}; ViT takes timm VisionTransformer models"
    if type(vit.patch_embed) is not TimmPatchEmbed:
        return "a hybrid, whose patches are cut from feature maps; ViT takes models that cut them from the image"
    if vit.cls_token is None or vit.reg_token is not None or vit.no_embed_class:
        return "not a plain ViT with one class token in its position embedding"
    return None


class PatchEmbed(nn.Module):
    """The patch-embedding convolution, as one matrix product over patches that are already gathered."""

    def __init__(self, proj: nn.Conv2d):
        super().__init__()
        self.proj = proj

    def forward(self, patches: Tensor) -> Tensor:
        """Maps (B, K, p*p*C) patches to (B, K, D) tokens; values of a patch are (row, column, channel)."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches, weight, self.proj.bias)


class ViTEncoder(EncoderModule):
    """The network of `ViT`: `encoder(images, mask) -> (B, 1 + K, D)`, class token and visible patches.

    If the encoder reads whole images, it returns (B, 1 + L, D) with the patches in raster order. Parameter names are
    timm's, so an export is a copy. Only `vis_mask_token` is not in timm. This token exists for masks with a
    `secondary`, and stands for the patches that these masks replace (UM-MAE, models_mae.py `forward_encoder`).
    """

    has_visible_token = True

    vis_mask_token: nn.Parameter
    """(1, 1, D) token of secondarily masked patches, if the masking replaces patches."""
    token: MaskToken
    """Token of hidden patches, if the encoder reads whole images."""

    def __init__(self, spec: ViT, vit: Any, image: ImageSpec, masking: Masking):
        patch_size, dim = vit.patch_embed.patch_size[0], vit.embed_dim
        super().__init__(
            image, patch_size=patch_size, embed_dim=dim, reads=spec.reads, num_prefix_tokens=1, fill=spec.fill
        )
        self.patch_embed = PatchEmbed(vit.patch_embed.proj)
        self.cls_token: nn.Parameter = vit.cls_token
        if spec.pos == "learned":
            self.pos_embed: nn.Parameter = vit.pos_embed
        else:
            pos_embed = sincos_position_embedding(dim, self.grid, num_prefix_tokens=1)
            self.pos_embed = nn.Parameter(pos_embed, requires_grad=False)
        self.norm_pre, self.blocks, self.norm = vit.norm_pre, vit.blocks, vit.norm
        self.apply(init_transformer)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)
        if masking.replaces:
            self.vis_mask_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        if spec.reads == "all":
            self.token, self.token_layer = MaskToken(dim, spec.token), spec.token_layer

    def forward(self, images: Tensor, mask: Mask) -> Tensor:
        dtype = compute_dtype(self.cls_token)
        if self.reads == "all":
            return self.read_all(self.input(images, mask, dtype), mask.mask)
        x = self.patch_embed(self.input.patches(images, mask.ids_keep, self.patch_size, dtype))
        if mask.secondary is not None:
            x = mask_token(x[:, None], mask.secondary[:, None], self.vis_mask_token[0, 0])[:, 0]
        x = x + self.pos_embed[0, 1:][mask.ids_keep]
        return self.transform(x)

    def features(self, images: Tensor) -> Tensor:
        """Encodes whole images as timm's `forward_features` does, bit for bit: (B, 1 + L, D)."""
        return self.read_all(images, None)

    def maps(self, images: Tensor) -> list[Tensor]:
        return [as_map(self.features(images)[:, 1:], self.grid)]

    def block_maps(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        x, maps = self.prepend(self.embed(images) + self.pos_embed[:, 1:]), []
        for first, last in zip((-1, *blocks), blocks, strict=False):
            x = self.run(self.blocks[first + 1 : last + 1], x)
            maps.append(as_map(x[:, 1:], self.grid))
        return maps

    def layers(self) -> list[tuple[str, ...]]:
        stem = ("patch_embed", "cls_token", "pos_embed", "norm_pre")
        return [stem, *((f"blocks.{i}",) for i in range(len(self.blocks)))]

    def take_norm(self) -> nn.Module:
        return take_module(self, "norm")

    def read_all(self, images: Tensor, hidden: Tensor | None) -> Tensor:
        """Runs the network on whole (B, C, H, W) images, with the mask token at the (B, L) `hidden` patches."""
        x = self.embed(images)
        if hidden is not None and self.token_layer == 0:
            x, hidden = self.token(x, hidden), None
        return self.transform(x + self.pos_embed[:, 1:], hidden)

    def embed(self, images: Tensor) -> Tensor:
        """Embeds all patches of (B, C, H, W) images, without positions: (B, L, D)."""
        proj = self.patch_embed.proj
        return F.conv2d(images, proj.weight, proj.bias, stride=self.patch_size).flatten(2).transpose(1, 2)

    def prepend(self, x: Tensor) -> Tensor:
        """Prepends the class token; the result is the input of the first block."""
        cls_token = self.cls_token + self.pos_embed[:, :1]
        return self.norm_pre(torch.cat([cls_token.expand(x.shape[0], -1, -1), x], dim=1))

    def transform(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Runs the network after the patch embedding: class token, blocks and norm.

        If patches are hidden, the mask token joins before block `token_layer`.
        """
        x = self.prepend(x)
        first = 0 if hidden is None else self.token_layer - 1
        x = self.run(self.blocks[:first], x)
        if hidden is not None:
            x = self.token(x, F.pad(hidden, (1, 0)))
        return self.norm(self.run(self.blocks[first:], x))

    def run(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        """Runs some of the blocks, with gradient checkpointing if that is on."""
        return run_blocks(blocks, x, self.grad_checkpointing)
