"""Checkpoints of Alpha-VL/ConvMAE. The released files lack decoder and fusion."""

from __future__ import annotations

import math

from ..config.base import Config, Data
from ..data.crops import RandomResizedCrop
from ..model.decoders import TransformerDecoder
from ..model.encoders import ConvMAE
from ..model.losses import MaskedL2
from ..model.masking import RandomMasking
from ..model.targets import NormalizedPatches
from .checkpoint_format import CheckpointFormat, Rule
from .mae import DECODER
from .model_sizes import State


def convmae_config(state: State) -> Config:
    """Returns ConvMAE's configuration for its weights.

    Shapes do not determine the number of heads, so only ConvMAE-B, the one published model, is accepted.

    Raises:
        ValueError: the sizes differ from those of ConvMAE-B.
    """
    published = ConvMAE()
    weights = [state.get(f"encoder.patch_embed{n}.proj.weight") for n in (1, 2, 3)]
    found = [tuple(w.shape) for w in weights if w is not None]
    sizes = zip(published.embed_dims, (3, *published.embed_dims), published.patch_sizes, strict=False)
    side = math.isqrt(state["encoder.pos_embed"].shape[1]) if "encoder.pos_embed" in state else 14
    if found != [(dim, channels, p, p) for dim, channels, p in sizes]:
        raise ValueError(f"expected the patch embeddings of ConvMAE-B, got shapes {found}")
    return Config(
        masking=RandomMasking(),
        encoder=published,
        decoder=TransformerDecoder(),
        target=NormalizedPatches(),
        loss=MaskedL2(),
        data=Data(crop=RandomResizedCrop(scale=(0.2, 1.0)), size=(16 * side, 16 * side)),
    )


FORMATS = (
    CheckpointFormat(
        name="ConvMAE (Alpha-VL/ConvMAE)",
        container="model",
        marks=(r"patch_embed4\.weight", r"blocks1\.0\.attn\.weight", r"blocks3\.0\.attn\.qkv\.weight"),
        rules=(
            Rule("pos_embed", "encoder.pos_embed"),
            Rule("patch_embed{n}.{rest}", "encoder.patch_embed{n}.{rest}"),
            Rule("blocks{n}.{rest}", "encoder.blocks{n}.{rest}"),
            Rule("stage{n}_output_decode.{p}", "encoder.stage{n}_output_decode.{p}"),
            Rule("norm.{p}", "encoder.norm.{p}"),
            *DECODER,
        ),
        config=convmae_config,
    ),
)
