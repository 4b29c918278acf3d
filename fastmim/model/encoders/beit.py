"""BEiT's vision transformers from timm, which read whole images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...config.fields import check_bounds
from ...parts import ImageSpec, Masking
from ...tokens import Mask, as_map
from .base import EncoderModule
from .checks import check_masking, check_size, check_token_layer
from .create import TimmTransformer, create, overrides, store_buffers_as_int8, take_module
from .layers import MaskToken, compute_dtype


@dataclass(frozen=True)
class BEiT(TimmTransformer):
    """The ViT of SimMIM (arXiv:2111.09886) and of A2MIM (arXiv:2205.13943): timm's Beit with a mask token.

    The defaults are SimMIM's. A2MIM's ViT has `absolute_pos`, no `shared_bias`, init "a2mim", fill "mean", token "add".
    """

    name: str = "beit_base_patch16_224"
    """timm model name."""
    mlp_ratio: float | None = None
    """Hidden width of an MLP as a multiple of the token width; None = the model's own."""
    absolute_pos: bool = False
    """True if learned absolute positions are added to the tokens."""
    shared_bias: bool = True
    """True = one table of relative positions for all blocks; False = one table per block."""
    layer_scale: float = 0.1
    """Initial value of LayerScale."""
    init: Literal["simmim", "a2mim"] = "simmim"
    """Initialisation of the weights, see `init_simmim` and `init_a2mim`."""
    drop_path: float = 0.1
    """Stochastic depth rate of the last block, growing linearly from 0."""

    def __post_init__(self):
        super().__post_init__()
        check_bounds(self, "encoder.", "drop_path", at_least=0, below=1)
        check_bounds(self, "encoder.", "mlp_ratio", above=0)

    def timm_args(self, size: tuple[int, int]) -> dict[str, Any]:
        own = self.sizes() | overrides(mlp_ratio=self.mlp_ratio)
        position = {
            "use_abs_pos_emb": self.absolute_pos,
            "use_rel_pos_bias": not self.shared_bias,
            "use_shared_rel_pos_bias": self.shared_bias,
        }
        fixed = {"img_size": size, "global_pool": "token", "init_values": self.layer_scale}
        return fixed | position | own

    def build(self, image: ImageSpec, masking: Masking) -> BEiTEncoder:
        """Builds the network.

        Raises:
            ValueError: timm has no such model, or the image size, the masking or `token_layer` does not fit it.
        """
        from timm.models.beit import Beit

        check_masking(masking, "all")
        args = self.timm_args(image.size)
        beit = create(self.name, Beit, in_chans=image.channels, drop_path_rate=self.drop_path, **args)
        check_size(image.size, beit.patch_embed.patch_size[0], self.name)
        check_token_layer(self.token_layer, len(beit.blocks), self.name)
        return BEiTEncoder(self, beit, image)


class BEiTEncoder(EncoderModule):
    """The network of `BEiT`: `encoder(images, mask) -> (B, 1 + L, D)`, class token and all patches.

    Patches are in raster order. `backbone` is timm's model, so an export is a copy.
    """

    backbone: Any
    """timm's model."""

    def __init__(self, spec: BEiT, beit: Any, image: ImageSpec):
        patch_size = beit.patch_embed.patch_size[0]
        super().__init__(image, patch_size=patch_size, embed_dim=beit.embed_dim, num_prefix_tokens=1, fill=spec.fill)
        self.backbone = beit
        store_buffers_as_int8(beit)
        self.token_layer = spec.token_layer
        self.token = MaskToken(self.embed_dim, spec.token)
        init = {"simmim": init_simmim, "a2mim": init_a2mim}[spec.init]
        init(beit, self.token.mask_token)

    def forward(self, images: Tensor, mask: Mask) -> Tensor:
        return self.transform(self.input(images, mask, compute_dtype(self.token.mask_token)), mask.mask)

    def features(self, images: Tensor) -> Tensor:
        """Encodes whole images as timm's `forward_features` does, bit for bit: (B, 1 + L, D)."""
        return self.transform(images, None)

    def maps(self, images: Tensor) -> list[Tensor]:
        return [as_map(self.features(images)[:, 1:], self.grid)]

    def block_maps(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        return [as_map(x[:, 1:], self.grid) for i, x in enumerate(self.blocks(images, None)) if i in blocks]

    def layers(self) -> list[tuple[str, ...]]:
        stem = ("backbone.patch_embed", "backbone.cls_token", "backbone.pos_embed")
        return [stem, *((f"backbone.blocks.{i}",) for i in range(len(self.backbone.blocks)))]

    def take_norm(self) -> nn.Module:
        return take_module(self, "backbone.norm")

    def transform(self, images: Tensor, hidden: Tensor | None) -> Tensor:
        """Runs timm's model, with the mask token at the (B, L) `hidden` patches."""
        last = images
        for tokens in self.blocks(images, hidden):
            last = tokens
        return self.backbone.norm(last)

    def blocks(self, images: Tensor, hidden: Tensor | None) -> Iterator[Tensor]:
        """Yields the tokens after each block."""
        beit = self.backbone
        x = beit.patch_embed(images)
        if hidden is not None and self.token_layer == 0:
            x = self.token(x, hidden)
        x = torch.cat([beit.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        if beit.pos_embed is not None:
            x = x + beit.pos_embed
        bias = beit.rel_pos_bias() if beit.rel_pos_bias is not None else None
        for i, block in enumerate(beit.blocks, 1):
            if hidden is not None and i == self.token_layer:
                x = self.token(x, nn.functional.pad(hidden, (1, 0)))
            x = checkpoint(block, x, bias, use_reentrant=False) if self.grad_checkpointing else block(x, bias)
            yield x


def init_simmim(beit: Any, mask_token: Tensor) -> None:
    """Initialises the weights as SimMIM does (microsoft/SimMIM `vision_transformer.py`, `simmim.py`).

    Linear and convolution weights, tokens and positions are normal with deviation 0.02, cut at one deviation. Biases
    are zero. The last weights of both branches of block i (from 1) are divided by sqrt(2 i).
    """
    normal = partial(nn.init.trunc_normal_, std=0.02, a=-0.02, b=0.02)
    for module in beit.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            normal(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for parameter in (beit.cls_token, mask_token, beit.pos_embed):
        if parameter is not None:
            normal(parameter)
    with torch.no_grad():
        for i, block in enumerate(beit.blocks, 1):
            block.attn.proj.weight /= math.sqrt(2 * i)
            block.mlp.fc2.weight /= math.sqrt(2 * i)


def init_a2mim(beit: Any, mask_token: Tensor) -> None:
    """Initialises the weights as A2MIM does (openmixup `mim_vit.py`).

    Linear weights, tokens and positions are normal with deviation 0.02. timm has already set everything else to
    A2MIM's values; the patch embedding has torch's default.
    """
    weights = [module.weight for module in beit.modules() if isinstance(module, nn.Linear)]
    for parameter in (*weights, mask_token, beit.cls_token, beit.pos_embed):
        if parameter is not None:
            nn.init.trunc_normal_(parameter, std=0.02)
