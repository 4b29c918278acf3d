"""The official configuration of a model, its sizes read from the shapes of its weights. May import L3 and below.

Each function takes weights by our names, and raises ValueError where their shapes do not tell. What has no weights at
all (masks, target, loss, how hidden pixels are filled) is the method's own.
"""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from ..config import Config, Data
from ..data.crops import RandomResizedCrop
from ..decoders import LinearHead, TransformerDecoder
from ..encoders import BEiT, Swin, ViT
from ..losses import FocalFrequency, MaskedL1, MaskedL2, WithFourier
from ..masking import BlockMasking, RandomMasking
from ..targets import NormalizedPatches, Pixels

State = dict[str, Tensor]

# Heads cannot be seen in the shapes of plain attention: by width, the published models'.
VITS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
DECODER_HEADS = {384: 12, 512: 16}


def mae(state: State, **parts: Any) -> Config:
    """MAE on a ViT; `parts` take the place of MAE's."""
    dim, channels, patch_size, _ = _shape(state, "encoder.patch_embed.proj.weight")
    side = _root(_shape(state, "encoder.pos_embed")[1] - 1)
    if dim not in VITS:
        raise ValueError(f"a ViT of width {dim} is none of the published ones ({', '.join(map(str, VITS))})")
    named = 14 if dim == 1280 else 16
    encoder = ViT(
        f"vit_{VITS[dim]}_patch{named}_224",
        patch_size=None if patch_size == named else patch_size,
        depth=_count(state, r"encoder\.blocks\.(\d+)\..*"),
    )
    method = {
        "masking": RandomMasking(),
        "encoder": encoder,
        "decoder": transformer_decoder(state),
        "target": NormalizedPatches(),
        "loss": MaskedL2(),
        "data": _data(side * patch_size, channels, RandomResizedCrop(scale=(0.2, 1.0))),
    }
    return Config(**method | parts)


def transformer_decoder(state: State) -> TransformerDecoder:
    """The decoder among these weights; MAE's if they are of an encoder alone."""
    depth = _count(state, r"decoder\.blocks\.(\d+)\..*")
    if depth == 0:
        return TransformerDecoder()
    dim = _shape(state, "decoder.pos_embed")[-1]
    if dim not in DECODER_HEADS:
        raise ValueError(
            f"a decoder of width {dim} is none of the published ones ({', '.join(map(str, DECODER_HEADS))})"
        )
    return TransformerDecoder(dim=dim, depth=depth, num_heads=DECODER_HEADS[dim])


def simmim_swin(state: State) -> Config:
    """SimMIM on Swin, of images that are one window in the last stage, as all the published ones."""
    prefix = "encoder.backbone."
    dim, channels, patch_size, _ = _shape(state, f"{prefix}patch_embed.proj.weight")
    depths = _stages(state, prefix + r"layers\.(\d+)\.blocks\.(\d+)\..*")
    tables = [
        _shape(state, f"{prefix}layers.{i}.blocks.0.attn.relative_position_bias_table") for i in range(len(depths))
    ]
    window, last = ((_root(tables[i][0]) + 1) // 2 for i in (0, -1))
    encoder = Swin(
        "swin_base_patch4_window7_224",
        window=window,
        patch_size=patch_size,
        embed_dim=dim,
        depths=depths,
        num_heads=tuple(heads for _, heads in tables),
    )
    return _simmim(encoder, LinearHead(), last * patch_size << len(depths) - 1, channels)


def simmim_vit(state: State) -> Config:
    """SimMIM on BEiT's ViT."""
    table = _shape(state, "encoder.backbone.rel_pos_bias.relative_position_bias_table")
    return _simmim(*_beit(state, table, shared_bias=True))


def a2mim_vit(state: State) -> Config:
    """A2MIM on its ViT. openmixup's SimMIM on it has the same weights."""
    table = _shape(state, "encoder.backbone.blocks.0.attn.relative_position_bias_table")
    own = dict(absolute_pos=True, shared_bias=False, init="a2mim", fill="mean", token="add")
    encoder, _, size, channels = _beit(state, table, **own)
    loss = WithFourier(spatial=MaskedL1(), fourier=FocalFrequency(batch=128))
    return _simmim(encoder, LinearHead(init="trunc_normal"), size, channels, loss=loss)


def _beit(state: State, table: list[int], **own: Any) -> tuple[BEiT, LinearHead, int, int]:
    """(encoder, decoder, image side, channels)."""
    prefix = "encoder.backbone."
    dim, channels, patch_size, _ = _shape(state, f"{prefix}patch_embed.proj.weight")
    encoder = BEiT(
        "beit_base_patch16_224",
        patch_size=patch_size,
        depth=_count(state, prefix.replace(".", r"\.") + r"blocks\.(\d+)\..*"),
        embed_dim=dim,
        num_heads=table[1],
        mlp_ratio=_shape(state, f"{prefix}blocks.0.mlp.fc1.weight")[0] / dim,
        **own,
    )
    return encoder, LinearHead(), (_root(table[0] - 3) + 1) // 2 * patch_size, channels


def _simmim(encoder: Any, decoder: LinearHead, size: int, channels: int, **parts: Any) -> Config:
    method = {
        "masking": BlockMasking(),
        "encoder": encoder,
        "decoder": decoder,
        "target": Pixels(),
        "loss": MaskedL1(),
        "data": _data(size, channels, RandomResizedCrop(scale=(0.67, 1.0), interpolation="bilinear")),
    }
    return Config(**method | parts)


def _data(side: int, channels: int, crop: RandomResizedCrop) -> Data:
    if channels != 3:
        raise ValueError(f"the published models have 3 channels, the file's has {channels}")
    return Data(crop=crop, size=(side, side))


def _shape(state: State, name: str) -> list[int]:
    if name not in state:
        raise ValueError(f"the file lacks {name} (by our name), whose shape tells the sizes")
    return list(state[name].shape)


def _root(number: int) -> int:
    """The side of a square of so many cells."""
    side = math.isqrt(max(number, 0))
    if side == 0 or side**2 != number:
        raise ValueError(f"{number} positions are no square")
    return side


def _count(state: State, pattern: str) -> int:
    """How many numbers a pattern's group finds."""
    return len({found[1] for name in state if (found := re.fullmatch(pattern, name))})


def _stages(state: State, pattern: str) -> tuple[int, ...]:
    """Blocks of each stage, from a pattern of two groups: stage and block."""
    found = {match.groups() for name in state if (match := re.fullmatch(pattern, name))}
    return tuple(sum(stage == str(i) for stage, _ in found) for i in range(len({stage for stage, _ in found})))
