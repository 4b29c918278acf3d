"""Checkpoints of implus/UM-MAE: UM-MAE on ViT, Swin and PVT, and SimMIM on Swin and PVT."""

from __future__ import annotations

from ..config.base import Config
from ..data.crops import RandomResizedCrop
from ..model.decoders import LinearHead, TransformerDecoder
from ..model.encoders import UMPVT, UMSwin
from ..model.encoders.base import Reads
from ..model.losses import MaskedL1, MaskedL2
from ..model.masking import RandomMasking, UniformMasking
from ..model.targets import NormalizedPatches, Pixels
from .checkpoint_format import CheckpointFormat, Rule
from .mae import DECODER, DECODER_HEADS, ENCODER, vit_config
from .model_sizes import State, count_blocks, square_images, square_side, tensor_shape

PATCH = 16
"""Side of a patch that is hidden or visible, pixels."""
PVT_HEAD = 64
"""Width of a head of every published PVT."""
DEFAULT_SIZE = 256
"""Side of the images of the published Swin and PVT, for files without a position embedding."""


def um_vit_config(state: State) -> Config:
    """Returns UM-MAE's configuration for the weights of a ViT; see `vit_config`."""
    return vit_config(state, masking=UniformMasking())


def um_config(state: State) -> Config:
    """Returns the configuration for a Swin or PVT, trained by UM-MAE or by the repository's SimMIM.

    Raises:
        ValueError: the shapes are not those of a published model.
    """
    simmim = "encoder.mask_token" in state
    reads: Reads = "all" if simmim else "visible"
    encoder = _swin(state, reads) if "encoder.patch_embed.norm.weight" in state else _pvt(state, reads)
    side = DEFAULT_SIZE
    for name, cell in (("encoder.pos_embed", 4), ("decoder.pos_embed", PATCH)):
        if name in state:
            side = square_side(state[name].shape[1]) * cell
    channels = tensor_shape(state, "encoder.patch_embed.proj.weight")[1]
    data = square_images(side, channels, RandomResizedCrop(scale=(0.2, 1.0)))
    if simmim:
        head = LinearHead(layout="channels_last", init="xavier")
        return Config(
            masking=RandomMasking(), encoder=encoder, decoder=head, target=Pixels(), loss=MaskedL1(), data=data
        )
    dim = tensor_shape(state, "decoder.mask_token")[-1]
    if dim not in DECODER_HEADS:
        raise ValueError(f"the file's shapes do not determine the number of heads of a decoder of width {dim}")
    depth = count_blocks(state, "decoder.blocks.")
    return Config(
        masking=UniformMasking(secondary=0.25 if "encoder.vis_mask_token" in state else 0.0),
        encoder=encoder,
        decoder=TransformerDecoder(dim, depth, DECODER_HEADS[dim], official_pos_order=True),
        target=NormalizedPatches(),
        loss=MaskedL2(),
        data=data,
    )


def _swin(state: State, reads: Reads) -> UMSwin:
    first, depths = _stages(state)
    heads = tuple(tensor_shape(state, f"encoder.blocks.{i}.attn.posmlp.2.bias")[0] for i in first)
    embed_dim = tensor_shape(state, "encoder.patch_embed.proj.weight")[0]
    posmlp_dim = tensor_shape(state, "encoder.blocks.0.attn.posmlp.0.weight")[0]
    return UMSwin(reads, depths, heads, embed_dim=embed_dim, posmlp_dim=posmlp_dim)


def _pvt(state: State, reads: Reads) -> UMPVT:
    first, depths = _stages(state)
    shapes = [tensor_shape(state, f"encoder.blocks.{i}.mlp.fc1.weight") for i in first]
    dims = tuple(dim for _, dim in shapes)
    if any(dim % PVT_HEAD for dim in dims):
        raise ValueError(f"expected a PVT with heads of {PVT_HEAD} channels, got stages of {dims} channels")
    ratios = tuple(hidden // dim for hidden, dim in shapes)
    return UMPVT(reads, depths, tuple(dim // PVT_HEAD for dim in dims), dims=dims, mlp_ratios=ratios)


def _stages(state: State) -> tuple[list[int], tuple[int, ...]]:
    """Returns the first block of each stage, and the number of blocks of each stage."""
    blocks = count_blocks(state, "encoder.blocks.")
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

# UM-MAE's formats come first, because their names include all marks of the SimMIM formats.
FORMATS = (
    CheckpointFormat(
        name="UM-MAE ViT (implus/UM-MAE)",
        container="model",
        marks=(r"cls_token", r"vis_mask_token"),
        rules=SECONDARY + ENCODER + DECODER,
        config=um_vit_config,
    ),
    *(
        CheckpointFormat(
            name=f"UM-MAE {name} (implus/UM-MAE)",
            container="model",
            marks=(mark, r"decoder_embed\.weight"),
            rules=SECONDARY + PYRAMID + DECODER,
            config=um_config,
        )
        for name, mark in (("Swin", SWIN_MARK), ("PVT", PVT_MARK))
    ),
    *(
        CheckpointFormat(
            name=f"SimMIM {name} (implus/UM-MAE)",
            container="model",
            marks=(mark, r"mask_token", r"decoder_pred\.weight"),
            rules=SIMMIM + PYRAMID,
            config=um_config,
        )
        for name, mark in (("Swin", SWIN_MARK), ("PVT", PVT_MARK))
    ),
)
