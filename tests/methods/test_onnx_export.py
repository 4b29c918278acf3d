"""Export to ONNX: ONNX Runtime's outputs for an image file equal PyTorch's, or nothing is written."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fastmim.config.classify import Finetune, Head
from fastmim.export import export
from fastmim.export import onnx_format as onnx_export
from fastmim.export.load import from_run
from fastmim.model.build import build
from fastmim.model.encoders import UMPVT, ConvMAE, ConvNeXt, ResNet, Swin, UMSwin
from tests.methods.test_export import CONFIG, DATA, VIT, classifier
from tests.methods.test_frameworks import TINY_SWIN, config_of, randomized
from tests.methods.tiny import ENCODERS, ROOT

COSTLY = pytest.mark.costly("onnx", "the exporter takes 3 to 30 seconds for a model, however small")

UM_SWIN = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window": 4}
ENCODERS_OF_OURS = {
    "ConvMAE": (ConvMAE(**ENCODERS["ConvMAE"]), (32, 48)),
    "ResNet": (ResNet(**ENCODERS["ResNet"]), (64, 64)),
    "Swin": (Swin(**TINY_SWIN), (192, 192)),
    "dilated ConvNeXt": (ConvNeXt(**ENCODERS["ConvNeXt"], output_stride=8), (64, 96)),
    "UMSwin": (UMSwin(**UM_SWIN), (64, 64)),
    "UMPVT": (UMPVT(**ENCODERS["UMPVT"], reductions=(2, 2, 1, 1)), (64, 64)),
}


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


@COSTLY
def test_a_classifier_from_an_image_file_on(tmp_path, monkeypatch):
    """The snippet reads an image file and computes the logits of the run's own transform and model."""
    config = Finetune(encoder=VIT, data=replace(DATA, test_interpolation="bilinear"), head=Head("cls", "before"))
    module = classifier(config)
    folder = export.export_encoder(config, module.state_dict(), tmp_path / "out", "onnx")
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "usage.py", "README.md"}
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec((folder / "usage.py").read_text().replace("image.jpg", "image.png"), found)  # noqa: S102
    trained = from_run(config, module.state_dict())
    with torch.no_grad():
        images = trained.transform()(Image.open("image.png"))[None]
        for name, expected in (("logits", trained.model.logits(images)), ("features", trained.model(images))):
            torch.testing.assert_close(torch.from_numpy(found[name]), expected, rtol=1e-4, atol=1e-4)
    assert f"opset {onnx_export.OPSET}" in (folder / "README.md").read_text()


@COSTLY
@pytest.mark.parametrize("name", [name if name == "Swin" else slow(name) for name in ENCODERS_OF_OURS])
def test_encoders_of_every_kind(name, tmp_path):
    """The export itself compares features and tokens, and names operators that are not standard."""
    import onnx

    config = config_of(*ENCODERS_OF_OURS[name])
    folder = export.export_encoder(config, randomized(build(config)).state_dict(), tmp_path / "out", "onnx")
    graph = onnx.load(folder / "model.onnx")
    assert [imported.version for imported in graph.opset_import if imported.domain == ""] == [onnx_export.OPSET]
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert [output.name for output in graph.graph.output] == ["features", "tokens"]
    assert not any(str(ROOT).encode() in path.read_bytes() for path in folder.iterdir() if path.name != "README.md")


@COSTLY
def test_a_convolutional_network_tested_on_larger_images(tmp_path, monkeypatch):
    """The graph takes images of the test size. Many weights lie beside the graph."""
    import onnx

    monkeypatch.setattr(onnx_export, "LARGEST", 1000)
    config = Finetune(encoder=ResNet(**ENCODERS["ResNet"]), data=replace(DATA, test_size=(96, 64)))
    folder = export.export_encoder(config, classifier(config).state_dict(), tmp_path / "out", "onnx")
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.onnx.data", "usage.py", "README.md"}
    assert export.resolve_target(folder) == folder
    dims = onnx.load(folder / "model.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims[2:]] == [96, 64] and "resize((64, 96)" in (folder / "usage.py").read_text()


@COSTLY
def test_other_values_are_refused(tmp_path, monkeypatch):
    """A graph of another model, or for one batch size only, is an error."""
    write = onnx_export.write_onnx
    mim = build(CONFIG)

    def other(trained, folder):
        notes = write(trained, folder)
        trained.model.encoder.norm.bias.data += 0.01
        return notes

    layout = replace(onnx_export.ONNX, write=other)
    monkeypatch.setitem(export.FORMATS, "onnx", layout)
    with pytest.raises(RuntimeError, match=r"was not written: ONNX Runtime gives other features of 1 images"):
        export.export_encoder(CONFIG, mim.state_dict(), tmp_path / "out", "onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_libraries(tmp_path, monkeypatch):
    """The error is one line that says what to install."""
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    config, mim = CONFIG, build(CONFIG)
    with pytest.raises(
        ValueError,
        match="ONNX needs onnxscript, which is not installed: run `pip install onnxscript`; this encoder",
    ):
        export.export_encoder(config, mim.state_dict(), tmp_path / "out", "onnx")
