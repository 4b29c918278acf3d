"""The checkpoints of implus/UM-MAE: its ViT, Swin and PVT, and its SimMIM. May import L3 and below."""

from __future__ import annotations

import math
import re

from torch import Tensor

from ..config import Config, Data
from ..data.crops import RandomResizedCrop
from ..decoders import LinearHead, TransformerDecoder
from ..encoders import UMPVT, UMSwin
from ..losses import MaskedL1, MaskedL2
from ..masking import RandomMasking, UniformMasking
from ..targets import NormalizedPatches, Pixels
from .format import Format, Rule
from .mae import DECODER, DECODER_HEADS, ENCODER, vit_config

PATCH = 16
PVT_HEAD = 64
"""Width of a head of every published PVT."""
DEFAULT_SIZE = 256
"""Side of the images of every published pyramid, where no position embedding tells it."""


def um_vit_config(state: dict[str, Tensor]) -> Config:
    """The configuration of a ViT of these weights (by our names); see `vit_config`."""
    return vit_config(state, masking=UniformMasking())


def um_config(state: dict[str, Tensor]) -> Config:
    """The configuration of a Swin or PVT of these weights, trained by UM-MAE or by the repository's SimMIM.

    Raises:
        ValueError: a position embedding of an image that is no square, or a decoder whose heads cannot be told.
    """
    simmim = "encoder.mask_token" in state
    encoder = (_swin if "encoder.patch_embed.norm.weight" in state else _pvt)(state, "all" if simmim else "visible")
    side = DEFAULT_SIZE
    for name, cell in (("encoder.pos_embed", 4), ("decoder.pos_embed", PATCH)):
        if name in state:
            side = math.isqrt(state[name].shape[1]) * cell
            if side**2 != state[name].shape[1] * cell**2:
                raise ValueError(f"{name}: expected the positions of a square image, got {state[name].shape[1]}")
    data = Data(crop=RandomResizedCrop(scale=(0.2, 1.0)), size=(side, side))
    if simmim:
        head = LinearHead(layout="channels_last", init="xavier")
        return Config(RandomMasking(), encoder, head, Pixels(), MaskedL1(), data)
    dim = state["decoder.mask_token"].shape[-1] if "decoder.mask_token" in state else TransformerDecoder.dim
    if dim not in DECODER_HEADS:
        raise ValueError(f"the heads of a decoder of width {dim} cannot be told from the file's shapes")
    depth = len({match[1] for name in state if (match := re.match(r"decoder\.blocks\.(\d+)\.", name))})
    decoder = TransformerDecoder(dim, depth or 2, DECODER_HEADS[dim], official_pos_order=True)
    masking = UniformMasking(secondary=0.25 if "encoder.vis_mask_token" in state else 0.0)
    return Config(masking, encoder, decoder, NormalizedPatches(), MaskedL2(), data)


def _swin(state: dict[str, Tensor], reads: str) -> UMSwin:
    first, depths = _stages(state)
    heads = tuple(state[f"encoder.blocks.{i}.attn.posmlp.2.bias"].shape[0] for i in first)
    embed_dim, posmlp_dim = (
        state[f"encoder.{name}"].shape[0] for name in ("patch_embed.proj.weight", "blocks.0.attn.posmlp.0.weight")
    )
    return UMSwin(reads, depths, heads, embed_dim=embed_dim, posmlp_dim=posmlp_dim)


def _pvt(state: dict[str, Tensor], reads: str) -> UMPVT:
    first, depths = _stages(state)
    shapes = [state[f"encoder.blocks.{i}.mlp.fc1.weight"].shape for i in first]
    dims = tuple(dim for _, dim in shapes)
    ratios = tuple(hidden // dim for hidden, dim in shapes)
    return UMPVT(reads, depths, tuple(dim // PVT_HEAD for dim in dims), dims=dims, mlp_ratios=ratios)


def _stages(state: dict[str, Tensor]) -> tuple[list[int], tuple[int, ...]]:
    """The first block of each stage, and the blocks in each."""
    count = len({match[1] for name in state if (match := re.match(r"encoder\.blocks\.(\d+)\.", name))})
    first = [i for i in range(count) if i == 0 or f"encoder.blocks.{i}.downsample.proj.weight" in state]
    return first, tuple(end - start for start, end in zip(first, [*first[1:], count], strict=True))


PYRAMID = (
    Rule("patch_embed.{rest}", "encoder.patch_embed.{rest}"),
    Rule("pos_embed", "encoder.pos_embed"),
    Rule("blocks.{rest}", "encoder.blocks.{rest}"),
    Rule("norm.{p}", "encoder.norm.{p}"),
)
SECONDARY = (Rule("vis_mask_token", "encoder.vis_mask_token"),)
SIMMIM = (Rule("mask_token", "encoder.mask_token"), Rule("decoder_pred.{p}", "decoder.{p}"))
SWIN_MARK, PVT_MARK = r"blocks\.0\.attn\.posmlp\.0\.weight", r"blocks\.0\.attn\.sr\.weight"

# Those of UM-MAE come first: their names hold all marks of the SimMIM forms.
FORMATS = (
    Format(
        name="implus/UM-MAE/vit",
        container="model",
        marks=(r"cls_token", r"vis_mask_token"),
        rules=SECONDARY + ENCODER + DECODER,
        config=um_vit_config,
    ),
    *(
        Format(
            name=f"implus/UM-MAE/{name}",
            container="model",
            marks=(mark, r"decoder_embed\.weight"),
            rules=SECONDARY + PYRAMID + DECODER,
            config=um_config,
        )
        for name, mark in (("swin", SWIN_MARK), ("pvt", PVT_MARK))
    ),
    *(
        Format(
            name=f"implus/UM-MAE/simmim_{name}",
            container="model",
            marks=(mark, r"mask_token", r"decoder_pred\.weight"),
            rules=SIMMIM + PYRAMID,
            config=um_config,
        )
        for name, mark in (("swin", SWIN_MARK), ("pvt", PVT_MARK))
    ),
)
