"""Export as an ONNX graph, checked in ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastmim_kernels

from ..host.extras import require
from .export_format import TOLERANCE, ExportFormat, Snippet, describe_difference
from .trained_encoder import FeatureExtractor, TrainedEncoder

FILE = "model.onnx"
"""Name of the graph's file."""
LARGEST = 2**31 - 2**24
"""Bytes of weights that the graph's file can hold; further weights go to FILE.data.

The format of the file ends at 2 GiB.
"""
OPSET = 18
"""Version of the operators."""
INPUT = "images"
"""Name of the graph's input."""


class Graph(nn.Module):
    """Module of the graph, from normalised (B, C, H, W) float32 images to the outputs of `output_names`."""

    def __init__(self, model: FeatureExtractor):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns pooled features, tokens and, if a classifier was trained, logits."""
        tokens = self.model.tokens(images)
        pooled = self.model.pool(tokens)
        return (pooled, tokens) if self.model.fc is None else (pooled, tokens, self.model.fc(pooled))


def output_names(trained: TrainedEncoder) -> list[str]:
    """Returns the names of the graph's outputs."""
    return ["features", "tokens", *(["logits"] if trained.head else [])]


def check_onnx(trained: TrainedEncoder) -> None:
    """Checks that ONNX is installed.

    Raises:
        ValueError: ONNX is not installed.
    """
    require("ONNX", "onnx", "onnxscript", "onnxruntime")


def write_onnx(trained: TrainedEncoder, folder: Path) -> list[str]:
    """Writes model.onnx, for any number of images of one size.

    Returns:
        Sentences for the user.
    """
    height, width = trained.test_size
    images = torch.zeros((2, trained.image.channels, height, width))
    with reference_ops(), quiet_exporter(), torch.no_grad():
        program: Any = torch.onnx.export(
            Graph(trained.model).eval(),
            (images,),
            input_names=[INPUT],
            output_names=output_names(trained),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces, which hold the paths of this machine
        program.save(folder / FILE, external_data=sum(t.nbytes for t in trained.model.state_dict().values()) > LARGEST)
    names = ", ".join(output_names(trained))
    return [
        f"ONNX opset {OPSET}, standard operators only. Input `{INPUT}`: any number of normalised float32 images of "
        f"{height} x {width} pixels. Outputs: {names}.",
        f"`features` is {trained.pooling}."
        + (f" `logits` is computed from `features`, for {trained.classes} classes." if trained.head else ""),
        f"In ONNX Runtime on a CPU, outputs differ from PyTorch's by at most {TOLERANCE:g} of their root mean square.",
    ]


@torch.no_grad()
def find_onnx_problem(trained: TrainedEncoder, folder: Path, images: Tensor) -> str | None:
    """Compares the graph's outputs in ONNX Runtime with the encoder's, after checks of the file.

    The graph must be valid and have standard operators only.

    Args:
        trained: the encoder.
        folder: the export.
        images: normalised (B, C, H, W) images.

    Returns:
        The first problem, or None.
    """
    import onnx
    import onnxruntime as runtime

    graph = onnx.load(folder / FILE, load_external_data=False)
    try:
        onnx.checker.check_model(folder / FILE, full_check=True)
    except onnx.checker.ValidationError as error:
        return f"it is not valid ONNX: {error}"
    if own := {f"{node.domain}.{node.op_type}" for node in graph.graph.node if node.domain not in ("", "ai.onnx")}:
        return f"it has operators that are not standard: {', '.join(sorted(own))}"
    session = runtime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    for batch in (images[:1], torch.cat([images, images.flip(0)[:1]])):
        expected = Graph(trained.model)(batch)
        try:
            found = session.run(output_names(trained), {INPUT: batch.numpy()})
        except Exception as error:  # ONNX Runtime has no public base class of errors
            return f"ONNX Runtime cannot run it on {len(batch)} images: {error}"
        for name, ours, theirs in zip(output_names(trained), expected, found, strict=True):
            if difference := describe_difference(ours, torch.from_numpy(theirs)):
                return f"ONNX Runtime gives other {name} of {len(batch)} images ({difference})"
    return None


def onnx_snippet(trained: TrainedEncoder, folder: str) -> Snippet:
    """Returns Python that reads an image file and runs the graph in ONNX Runtime."""
    size = (trained.test_size[1], trained.test_size[0])
    grey = trained.image.channels == 1
    code = f"""import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
MEAN, STD = np.float32({list(trained.mean)}), np.float32({list(trained.std)})


def read(file):
    image = ImageOps.exif_transpose(Image.open(file, formats=FORMATS)).convert("{"L" if grey else "RGB"}")
    unit = {trained.crop.crop_pct!r} * min(image.height / {size[1]}, image.width / {size[0]})
    w, h = max(1, round(unit * {size[0]})), max(1, round(unit * {size[1]}))
    left, top = (image.width - w) // 2, (image.height - h) // 2
    window = image.crop((left, top, left + w, top + h))
    image = window.resize({size}, Image.Resampling[{trained.crop.interpolation.upper()!r}])
    pixels = np.asarray(image, np.float32).reshape({size[1]}, {size[0]}, -1) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


# features: {trained.pooling}{". The logits are computed from the features" if trained.head else ""}.
session = onnxruntime.InferenceSession({f"{folder}/{FILE}"!r})
{", ".join(output_names(trained))} = session.run(None, {{"{INPUT}": np.stack([read("image.jpg")])}})
"""
    return Snippet("usage.py", code)


@contextlib.contextmanager
def reference_ops() -> Iterator[None]:
    """Replaces ops by their references in plain torch inside the context, because ONNX has no fused ops."""
    before = fastmim_kernels.using_reference()
    fastmim_kernels.use_reference(True)
    try:
        yield
    finally:
        fastmim_kernels.use_reference(before)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silences the log of the exporter's optimizer inside the context."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


ONNX = ExportFormat(FILE, check_onnx, write_onnx, find_onnx_problem, onnx_snippet)
