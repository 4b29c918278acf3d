"""Exports for MMDetection, MMSegmentation and Detectron2: backbone.pth and a piece of config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..convert import detectron2, openmmlab
from ..convert.backbone import Backbone, encoder_tensors
from ..convert.official_weights import write_official
from ..convert.restricted_reader import read_official
from ..model.encoders import PRETRAINING_ONLY
from .export_format import ExportFormat, Snippet
from .trained_encoder import TrainedEncoder

FILE = "backbone.pth"
"""Name of the file with the weights."""
PYRAMID = 256
"""Channels of the feature pyramid in MMDetection's configs."""
MAPS = 4
"""Number of maps that MMSegmentation's decoders read."""


def openmmlab_backbone(trained: TrainedEncoder) -> Backbone:
    """Returns the backbone of OpenMMLab that takes the encoder's weights.

    Raises:
        ValueError: OpenMMLab has no such backbone.
    """
    return _placed(trained, openmmlab.find_backbone(trained.spec, trained.model.encoder, trained.image))


def mmseg_backbone(trained: TrainedEncoder) -> Backbone:
    """Returns the backbone of OpenMMLab with the maps that MMSegmentation reads.

    Raises:
        ValueError: OpenMMLab has no such backbone, or a ViT has too few blocks.
    """
    found = openmmlab_backbone(trained)
    if len(found.widths) == 1:
        depth = found.args["arch"]["num_layers"]
        if depth < MAPS:
            raise ValueError(f"MMSegmentation reads {MAPS} blocks of a ViT, this ViT has {depth}")
        found.args["out_indices"] = [(i + 1) * depth // MAPS - 1 for i in range(MAPS)]
    return found


def detectron2_backbone(trained: TrainedEncoder) -> Backbone:
    """Returns the backbone of Detectron2 that takes the encoder's weights.

    Raises:
        ValueError: Detectron2 has no such backbone.
    """
    return _placed(trained, detectron2.find_backbone(trained.spec, trained.model.encoder, trained.image))


def _placed(trained: TrainedEncoder, found: Backbone) -> Backbone:
    found.to_library(_ours(trained))  # raises an error if a tensor has no place
    return found


def write_openmmlab(trained: TrainedEncoder, folder: Path) -> list[str]:
    """Writes {"state_dict": tensors}, with the prefix "backbone." that mmengine's `Pretrained` expects.

    Returns:
        Sentences for the user.
    """
    found = openmmlab_backbone(trained)
    write_official(folder / FILE, "state_dict", found.to_library(_ours(trained)))
    return [*found.notes, *_notes(trained)]


def write_detectron2(trained: TrainedEncoder, folder: Path) -> list[str]:
    """Writes {"model": tensors, "matching_heuristics": True} for Detectron2's DetectionCheckpointer.

    With "matching_heuristics", DetectionCheckpointer compares the ends of names.

    Returns:
        Sentences for the user.
    """
    found = detectron2_backbone(trained)
    state = found.to_library(_ours(trained))
    write_official(folder / FILE, "model", state, {"__author__": "fastmim", "matching_heuristics": True})
    return [*found.notes, *_notes(trained)]


def find_openmmlab_problem(trained: TrainedEncoder, folder: Path, images: Tensor) -> str | None:
    """Returns how tensors of the OpenMMLab file differ from the encoder's, or None if all are equal."""
    return _find_problem(trained, openmmlab_backbone(trained), folder)


def find_detectron2_problem(trained: TrainedEncoder, folder: Path, images: Tensor) -> str | None:
    """Returns how tensors of the Detectron2 file differ from the encoder's, or None if all are equal."""
    return _find_problem(trained, detectron2_backbone(trained), folder)


def _ours(trained: TrainedEncoder) -> dict[str, Tensor]:
    return encoder_tensors(trained.model.encoder, PRETRAINING_ONLY)


def _notes(trained: TrainedEncoder) -> list[str]:
    maps = ["The backbone returns maps. They are not pooled."]
    if trained.head is None:
        return maps
    norm = "" if trained.head.norm == "before" else ", nor the norm between pooling and classifier"
    return [*maps, f"The file does not hold the classifier{norm}."]


def _find_problem(trained: TrainedEncoder, found: Backbone, folder: Path) -> str | None:
    """Translates the names in the file back and compares every tensor with the encoder's, bit for bit."""
    ours, inverse = _ours(trained), found.to_ours(read_official(folder / FILE).state)
    placed = found.to_library(ours)
    if len(placed) != len(inverse):
        return f"{len(placed)} tensors became {len(inverse)} when {found.kind}'s names were translated back"
    wrong = [name for name, tensor in inverse.items() if not torch.equal(tensor, ours[name])]
    return f"{wrong[0]} has other values after {found.kind}'s names were translated back" if wrong else None


def mmdet_snippet(trained: TrainedEncoder, folder: str) -> Snippet:
    """Returns code for a config of MMDetection, to be put after its `_base_`."""
    found = openmmlab_backbone(trained)
    parts: dict[str, Any] = {}
    imports = ["mmpretrain.models"] if found.kind.startswith("mmpretrain.") else []
    if len(found.widths) == 1:  # the neck makes a pyramid from the one map of a plain ViT
        width = found.widths[0]
        imports.append("projects.ViTDet.vitdet")
        widths = [width // 4, width // 2, width, width]
        parts["neck"] = {"_delete_": True, "type": "SimpleFPN", "backbone_channel": width, "in_channels": widths}
        parts["neck"] |= {"out_channels": PYRAMID, "num_outs": 5, "norm_cfg": {"type": "LN2d"}}
    else:
        parts["neck"] = {"in_channels": list(found.widths)}
    return _openmmlab("MMDetection", trained, found, parts, imports, folder)


def mmseg_snippet(trained: TrainedEncoder, folder: str) -> Snippet:
    """Returns code for a config of MMSegmentation, to be put after its `_base_`."""
    found = mmseg_backbone(trained)
    imports = ["mmpretrain.models"] if found.kind.startswith("mmpretrain.") else []
    parts: dict[str, Any] = {}
    widths = list(found.widths)
    if len(widths) == 1:
        parts["neck"] = {"type": "Feature2Pyramid", "embed_dim": widths[0], "rescales": [4, 2, 1, 0.5]}
        widths *= MAPS
    parts["decode_head"] = {"in_channels": widths}
    parts["auxiliary_head"] = {"in_channels": widths[2]}
    return _openmmlab("MMSegmentation", trained, found, parts, imports, folder)


def _openmmlab(
    library: str, trained: TrainedEncoder, found: Backbone, parts: dict[str, Any], imports: list[str], folder: str
) -> Snippet:
    source = {"type": "Pretrained", "checkpoint": f"{folder}/{FILE}", "prefix": "backbone."}
    model = {
        "data_preprocessor": {
            "mean": _bytes(trained.mean),
            "std": _bytes(trained.std),
            "bgr_to_rgb": trained.image.channels == 3,
        },
        "backbone": {"_delete_": True, "type": found.kind} | found.args | {"init_cfg": source},
    } | parts
    lines = [f"# In a config of {library}, after its _base_."]
    if imports:
        lines.append(f"custom_imports = {_code({'imports': imports, 'allow_failed_imports': False})}")
    return Snippet("config.py", "\n".join([*lines, f"model = {_code(model)}", ""]))


def detectron2_snippet(trained: TrainedEncoder, folder: str) -> Snippet:
    """Returns code for a LazyConfig of Mask R-CNN."""
    found = detectron2_backbone(trained)
    vit = found.kind == "ViT"
    base = "common/models/mask_rcnn_vitdet.py" if vit else "common/models/mask_rcnn_fpn.py"
    kinds = {"ResNet": "BasicStem, ResNet", "SwinTransformer": "SwinTransformer"}
    lines = ["# In a LazyConfig of Detectron2.", "from detectron2 import model_zoo"]
    if not vit:
        lines.append("from detectron2.config import LazyCall as L")
        lines.append(f"from detectron2.modeling.backbone import {kinds[found.kind]}")
    lines += [
        "",
        f'model = model_zoo.get_config("{base}").model',
        f"model.pixel_mean = {_bytes(trained.mean)}",
        f"model.pixel_std = {_bytes(trained.std)}",
        'model.input_format = "RGB"',
        '# Set the same for the data, which Detectron2 reads as BGR: dataloader.train.mapper.image_format = "RGB"',
    ]
    if vit:
        lines += [f"model.backbone.net.{name} = {value!r}" for name, value in found.args.items()]
        depth = found.args["depth"]
        windowed = [i for i in range(depth) if (i + 1) % max(1, depth // 4)]
        lines.append(
            f"model.backbone.net.window_block_indexes = {windowed}  # the other blocks attend to the whole image"
        )
    elif found.kind == "ResNet":
        stages = f'depth={found.args["depth"]}, norm="FrozenBN"'
        if found.args["depth"] >= 50:  # timm strides in the 3x3 convolution
            stages += ", stride_in_1x1=False"
        stem = f'L(BasicStem)(in_channels={found.args["in_channels"]}, out_channels=64, norm="FrozenBN")'
        lines += [
            f"model.backbone.bottom_up.stem = {stem}",
            f"model.backbone.bottom_up.stages = L(ResNet.make_default_stages)({stages})",
        ]
    else:
        arguments = "".join(f"    {name}={value!r},\n" for name, value in found.args.items())
        lines.append(f"model.backbone.bottom_up = L(SwinTransformer)(\n{arguments})")
        lines.append('model.backbone.in_features = ["p0", "p1", "p2", "p3"]')
    lines += [
        'train = model_zoo.get_config("common/train.py").train',
        f"train.init_checkpoint = {_literal(f'{folder}/{FILE}')!r}",
        "",
    ]
    return Snippet("config.py", "\n".join(lines))


def _literal(text: str) -> str:
    """Escapes text for the OmegaConf configs of Detectron2, where `${...}` refers to another value."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _bytes(values: tuple[float, ...]) -> list[float]:
    """Converts values from the 0..1 scale to the 0..255 scale."""
    return [round(255 * value, 6) for value in values]


def _code(value: Any, depth: int = 0) -> str:
    """Writes a dict as a call of `dict`, the style of OpenMMLab's configs.

    `{{` is escaped, because mmengine substitutes `{{...}}` before it runs a config, in strings too.
    """
    if not isinstance(value, dict):
        return repr(value).replace("{{", r"{\x7b")
    indent = "    " * (depth + 1)
    inner = "".join(f"{indent}{name}={_code(part, depth + 1)},\n" for name, part in value.items())
    return f"dict(\n{inner}{indent[4:]})"


MMDET = ExportFormat(FILE, openmmlab_backbone, write_openmmlab, find_openmmlab_problem, mmdet_snippet)
MMSEG = ExportFormat(FILE, mmseg_backbone, write_openmmlab, find_openmmlab_problem, mmseg_snippet)
DETECTRON2 = ExportFormat(FILE, detectron2_backbone, write_detectron2, find_detectron2_problem, detectron2_snippet)
