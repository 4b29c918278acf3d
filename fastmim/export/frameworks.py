"""Exports for MMDetection, MMSegmentation and Detectron2: backbone.pth, and the piece of configuration that names it.

May import L3 and below, and convert.
"""

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
from .layouts import Layout, Snippet
from .trained_encoder import TrainedEncoder

FILE = "backbone.pth"
PYRAMID = 256
"""Channels of a feature pyramid in MMDetection's configurations."""
MAPS = 4
"""Maps that MMSegmentation's decoders read."""


def openmmlab_backbone(trained: TrainedEncoder) -> Backbone:
    """
    Raises:
        ValueError: OpenMMLab has none for the encoder.
    """
    return _placed(trained, openmmlab.find_backbone(trained.spec, trained.model.encoder, trained.image))


def mmseg_backbone(trained: TrainedEncoder) -> Backbone:
    """
    Raises:
        ValueError: OpenMMLab has none for the encoder, or it is too shallow.
    """
    found = openmmlab_backbone(trained)
    if len(found.widths) == 1:
        depth = found.args["arch"]["num_layers"]
        if depth < MAPS:
            raise ValueError(f"MMSegmentation reads {MAPS} blocks of a ViT, and this one has {depth}")
        found.args["out_indices"] = [(i + 1) * depth // MAPS - 1 for i in range(MAPS)]
    return found


def detectron2_backbone(trained: TrainedEncoder) -> Backbone:
    """
    Raises:
        ValueError: Detectron2 has none for the encoder.
    """
    return _placed(trained, detectron2.find_backbone(trained.spec, trained.model.encoder, trained.image))


def _placed(trained: TrainedEncoder, found: Backbone) -> Backbone:
    found.to_library(_ours(trained))  # refuses what has no place
    return found


def write_openmmlab(trained: TrainedEncoder, folder: Path) -> list[str]:
    """{"state_dict": names with "backbone." in front}, as mmengine's `Pretrained` takes it with that prefix."""
    found = openmmlab_backbone(trained)
    write_official(folder / FILE, "state_dict", found.to_library(_ours(trained)))
    return [*found.notes, *_left(trained)]


def write_detectron2(trained: TrainedEncoder, folder: Path) -> list[str]:
    """{"model": names} and the word to match them by their ends, as DetectionCheckpointer takes it."""
    found = detectron2_backbone(trained)
    state = found.to_library(_ours(trained))
    write_official(folder / FILE, "model", state, {"__author__": "fastmim", "matching_heuristics": True})
    return [*found.notes, *_left(trained)]


def openmmlab_problem(trained: TrainedEncoder, folder: Path, images: Tensor) -> str | None:
    """Says what is wrong with the file, or returns None; see `_problem`."""
    return _problem(trained, openmmlab_backbone(trained), folder)


def detectron2_problem(trained: TrainedEncoder, folder: Path, images: Tensor) -> str | None:
    """Says what is wrong with the file, or returns None; see `_problem`."""
    return _problem(trained, detectron2_backbone(trained), folder)


def _ours(trained: TrainedEncoder) -> dict[str, Tensor]:
    return encoder_tensors(trained.model.encoder, PRETRAINING_ONLY)


def _left(trained: TrainedEncoder) -> list[str]:
    maps = ["The backbone gives maps, of which nothing is pooled."]
    if trained.head is None:
        return maps
    behind = "" if trained.head.norm == "before" else " with the norm in front of it, which was behind the pooling"
    return [*maps, f"The classifier stayed behind{behind}."]


def _problem(trained: TrainedEncoder, found: Backbone, folder: Path) -> str | None:
    """By way of the inverse map, the file must hold every tensor that has a place there, bit for bit."""
    ours, inverse = _ours(trained), found.to_ours(read_official(folder / FILE).state)
    placed = found.to_library(ours)
    if len(placed) != len(inverse):
        return f"{len(placed)} tensors became {len(inverse)} by way of {found.kind}'s names"
    wrong = [name for name, tensor in inverse.items() if not torch.equal(tensor, ours[name])]
    return f"{wrong[0]} is another one by way of {found.kind}'s names" if wrong else None


def mmdet_snippet(trained: TrainedEncoder, folder: str) -> Snippet:
    """For a config after its _base_."""
    found = openmmlab_backbone(trained)
    parts: dict[str, Any] = {}
    imports = ["mmpretrain.models"] if found.kind.startswith("mmpretrain.") else []
    if len(found.widths) == 1:  # one map of one stride becomes a pyramid
        width = found.widths[0]
        imports.append("projects.ViTDet.vitdet")
        widths = [width // 4, width // 2, width, width]
        parts["neck"] = {"_delete_": True, "type": "SimpleFPN", "backbone_channel": width, "in_channels": widths}
        parts["neck"] |= {"out_channels": PYRAMID, "num_outs": 5, "norm_cfg": {"type": "LN2d"}}
    else:
        parts["neck"] = {"in_channels": list(found.widths)}
    return _openmmlab("MMDetection", trained, found, parts, imports, folder)


def mmseg_snippet(trained: TrainedEncoder, folder: str) -> Snippet:
    """For a config after its _base_."""
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
    """For a LazyConfig of Mask R-CNN."""
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
        '# And of the data, which Detectron2 reads as BGR: dataloader.train.mapper.image_format = "RGB"',
    ]
    if vit:
        lines += [f"model.backbone.net.{name} = {value!r}" for name, value in found.args.items()]
        depth = found.args["depth"]
        windowed = [i for i in range(depth) if (i + 1) % max(1, depth // 4)]
        lines.append(f"model.backbone.net.window_block_indexes = {windowed}  # the others see the whole image")
    elif found.kind == "ResNet":
        stages = f'depth={found.args["depth"]}, norm="FrozenBN"'
        if found.args["depth"] >= 50:  # there the 3x3 convolution strides, as in timm
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
    """Escapes text for OmegaConf, which Detectron2's configs are made of: `${...}` would name another value."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _bytes(values: tuple[float, ...]) -> list[float]:
    """Values of the 0..1 scale on that of 0..255."""
    return [round(255 * value, 6) for value in values]


def _code(value: Any, depth: int = 0) -> str:
    """A dict as the call of dict that OpenMMLab's configs are written with.

    Before mmengine runs a config it puts values in place of `{{...}}`, in strings too.
    """
    if not isinstance(value, dict):
        return repr(value).replace("{{", r"{\x7b")
    indent = "    " * (depth + 1)
    inner = "".join(f"{indent}{name}={_code(part, depth + 1)},\n" for name, part in value.items())
    return f"dict(\n{inner}{indent[4:]})"


MMDET = Layout(FILE, openmmlab_backbone, write_openmmlab, openmmlab_problem, mmdet_snippet)
MMSEG = Layout(FILE, mmseg_backbone, write_openmmlab, openmmlab_problem, mmseg_snippet)
DETECTRON2 = Layout(FILE, detectron2_backbone, write_detectron2, detectron2_problem, detectron2_snippet)
