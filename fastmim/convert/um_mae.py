"""The checkpoints of implus/UM-MAE: its ViT, Swin and PVT, and its SimMIM. May import L3 and below."""

from __future__ import annotations

from ..config.base import Config
from ..data.crops import RandomResizedCrop
from ..model.decoders import LinearHead, TransformerDecoder
from ..model.encoders import UMPVT, UMSwin
from ..model.losses import MaskedL1, MaskedL2
from ..model.masking import RandomMasking, UniformMasking
from ..model.targets import NormalizedPatches, Pixels
from .format import Format, Rule
from .mae import DECODER, DECODER_HEADS, ENCODER, vit_config
from .shapes import State, count, root, shape, square

PATCH = 16
PVT_HEAD = 64
"""Width of a head of every published PVT."""
DEFAULT_SIZE = 256
"""Side of the images of every published pyramid, where no position embedding tells it."""


def um_vit_config(state: State) -> Config:
    """The configuration of a ViT of these weights (by our names); see `vit_config`."""
    return vit_config(state, masking=UniformMasking())


def um_config(state: State) -> Config:
    """The configuration of a Swin or PVT of these weights, trained by UM-MAE or by the repository's SimMIM.

    Raises:
        ValueError: shapes of none of the published models.
    """
    simmim = "encoder.mask_token" in state
    encoder = (_swin if "encoder.patch_embed.norm.weight" in state else _pvt)(state, "all" if simmim else "visible")
    side = DEFAULT_SIZE
    for name, cell in (("encoder.pos_embed", 4), ("decoder.pos_embed", PATCH)):
        if name in state:
            side = root(state[name].shape[1]) * cell
    data = square(side, shape(state, "encoder.patch_embed.proj.weight")[1], RandomResizedCrop(scale=(0.2, 1.0)))
    if simmim:
        head = LinearHead(layout="channels_last", init="xavier")
        return Config(
            masking=RandomMasking(), encoder=encoder, decoder=head, target=Pixels(), loss=MaskedL1(), data=data
        )
    dim = shape(state, "decoder.mask_token")[-1]
    if dim not in DECODER_HEADS:
        raise ValueError(f"the heads of a decoder of width {dim} cannot be told from the file's shapes")
    decoder = TransformerDecoder(dim, count(state, "decoder.blocks."), DECODER_HEADS[dim], official_pos_order=True)
    masking = UniformMasking(secondary=0.25 if "encoder.vis_mask_token" in state else 0.0)
    return Config(
        masking=masking, encoder=encoder, decoder=decoder, target=NormalizedPatches(), loss=MaskedL2(), data=data
    )


def _swin(state: State, reads: str) -> UMSwin:
    first, depths = _stages(state)
    heads = tuple(shape(state, f"encoder.blocks.{i}.attn.posmlp.2.bias")[0] for i in first)
    embed_dim = shape(state, "encoder.patch_embed.proj.weight")[0]
    posmlp_dim = shape(state, "encoder.blocks.0.attn.posmlp.0.weight")[0]
    return UMSwin(reads, depths, heads, embed_dim=embed_dim, posmlp_dim=posmlp_dim)


def _pvt(state: State, reads: str) -> UMPVT:
    first, depths = _stages(state)
    shapes = [shape(state, f"encoder.blocks.{i}.mlp.fc1.weight") for i in first]
    dims = tuple(dim for _, dim in shapes)
    if any(dim % PVT_HEAD for dim in dims):
        raise ValueError(f"heads of a PVT {dims} wide cannot be told: in the published ones each is {PVT_HEAD} wide")
    ratios = tuple(hidden // dim for hidden, dim in shapes)
    return UMPVT(reads, depths, tuple(dim // PVT_HEAD for dim in dims), dims=dims, mlp_ratios=ratios)


def _stages(state: State) -> tuple[list[int], tuple[int, ...]]:
    """The first block of each stage, and the blocks in each."""
    blocks = count(state, "encoder.blocks.")
    first = [i for i in range(blocks) if i == 0 or f"encoder.blocks.{i}.downsample.proj.weight" in state]
    return first, tuple(end - start for start, end in zip(first, [*first[1:], blocks], strict=True))


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
        name="UM-MAE ViT (implus/UM-MAE)",
        container="model",
        marks=(r"cls_token", r"vis_mask_token"),
        rules=SECONDARY + ENCODER + DECODER,
        config=um_vit_config,
    ),
    *(
        Format(
            name=f"UM-MAE {name} (implus/UM-MAE)",
            container="model",
            marks=(mark, r"decoder_embed\.weight"),
            rules=SECONDARY + PYRAMID + DECODER,
            config=um_config,
        )
        for name, mark in (("Swin", SWIN_MARK), ("PVT", PVT_MARK))
    ),
    *(
        Format(
            name=f"SimMIM {name} (implus/UM-MAE)",
            container="model",
            marks=(mark, r"mask_token", r"decoder_pred\.weight"),
            rules=SIMMIM + PYRAMID,
            config=um_config,
        )
        for name, mark in (("Swin", SWIN_MARK), ("PVT", PVT_MARK))
    ),
)
