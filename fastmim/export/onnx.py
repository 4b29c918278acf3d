"""Export as an ONNX graph, checked in ONNX Runtime. May import L3 and below, and convert."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import fastmim_kernels

from ..host.extras import require
from .layouts import TOLERANCE, Layout, Snippet
from .trained_encoder import FeatureExtractor, TrainedEncoder

FILE = "model.onnx"
BESIDE = f"{FILE}.data"
"""File of the weights if they are too many for the graph's file, whose format ends at 2 GiB."""
MOST = 2**31 - 2**24
"""Bytes of weights in the graph's file."""
OPSET = 18
INPUT = "images"


class Graph(nn.Module):
    """The module of the graph: normalised (B, C, H, W) float32 images to pooled features, tokens, and logits if any."""

    def __init__(self, model: FeatureExtractor):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        tokens = self.model.tokens(images)
        pooled = self.model.pool(tokens)
        return (pooled, tokens) if self.model.fc is None else (pooled, tokens, self.model.fc(pooled))


def outputs(trained: TrainedEncoder) -> list[str]:
    """Names of what the graph gives."""
    return ["features", "tokens", *(["logits"] if trained.head else [])]


def place_onnx(trained: TrainedEncoder) -> None:
    """
    Raises:
        ValueError: ONNX is not installed.
    """
    require("ONNX", "onnx", "onnxscript", "onnxruntime")


def write_onnx(trained: TrainedEncoder, folder: Path) -> list[str]:
    """model.onnx, for any number of images of one size."""
    height, width = trained.test_size
    images = torch.zeros((2, trained.image.channels, height, width))
    with plain(), quiet(), torch.no_grad():
        program = torch.onnx.export(
            Graph(trained.model).eval(),
            (images,),
            input_names=[INPUT],
            output_names=outputs(trained),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces with the paths of this machine
        program.save(folder / FILE, external_data=sum(t.nbytes for t in trained.model.state_dict().values()) > MOST)
    names = ", ".join(outputs(trained))
    return [
        f"ONNX opset {OPSET}, of standard operators only. Input `{INPUT}`: any number of normalised float32 images of "
        f"{height} x {width} pixels. Outputs: {names}.",
        f"`features` is {trained.pooling}"
        + (f", and `logits` is computed from it, {trained.classes} classes." if trained.head else "."),
        f"In ONNX Runtime on a CPU they differ from PyTorch's by at most {TOLERANCE:g} of their root mean square.",
    ]


@torch.no_grad()
def onnx_problem(trained: TrainedEncoder, folder: Path, images: Tensor) -> str | None:
    """Says why the graph is invalid, not of standard operators, or gives other outputs; else returns None."""
    import onnx
    import onnxruntime as runtime

    graph = onnx.load(folder / FILE, load_external_data=False)
    try:
        onnx.checker.check_model(folder / FILE, full_check=True)
    except onnx.checker.ValidationError as error:
        return f"it is not valid ONNX: {error}"
    if own := {f"{node.domain}.{node.op_type}" for node in graph.graph.node if node.domain not in ("", "ai.onnx")}:
        return f"it has operators of its own: {', '.join(sorted(own))}"
    session = runtime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    for batch in (images[:1], torch.cat([images, images.flip(0)[:1]])):
        expected = Graph(trained.model)(batch)
        try:
            found = session.run(outputs(trained), {INPUT: batch.numpy()})
        except Exception as error:  # its classes have no public name
            return f"ONNX Runtime cannot run it on {len(batch)} images: {error}"
        for name, ours, theirs in zip(outputs(trained), expected, found, strict=True):
            difference = (ours - torch.from_numpy(theirs)).abs().max() / ours.square().mean().sqrt()
            if not difference <= TOLERANCE:  # NaN is refused too
                return f"ONNX Runtime gives other {name} of {len(batch)} images ({difference:.3g} of their scale)"
    return None


def onnx_snippet(trained: TrainedEncoder, folder: str) -> Snippet:
    """Python for ONNX Runtime, from an image file on."""
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


# features: {trained.pooling}{", from which the logits are computed" if trained.head else ""}.
session = onnxruntime.InferenceSession({f"{folder}/{FILE}"!r})
{", ".join(outputs(trained))} = session.run(None, {{"{INPUT}": np.stack([read("image.jpg")])}})
"""
    return Snippet("usage.py", code)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Inside, ops are their references in plain torch, which ONNX has words for."""
    before = fastmim_kernels.using_reference()
    fastmim_kernels.use_reference(True)
    try:
        yield
    finally:
        fastmim_kernels.use_reference(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the exporter's optimizer inside."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


ONNX = Layout(FILE, place_onnx, write_onnx, onnx_problem, onnx_snippet)
