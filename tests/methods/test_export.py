"""The export: what timm gets is what was trained, or nothing is left."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from fastmim.config import load
from fastmim.encoders.vit import ViTEncoder
from fastmim.tasks import export
from fastmim.tasks.pretrain import build

CONFIG = load(Path(__file__).parents[2] / "configs/debug/tiny_cpu.py")
CONFIG = replace(CONFIG, encoder=replace(CONFIG.encoder, depth=2), data=replace(CONFIG.data, size=(16, 24)))


@pytest.fixture
def weights():
    """Of a model in which every parameter, biases and norms too, has its own value."""
    mim = build(CONFIG)
    for parameter in mim.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return mim.state_dict()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_timm_loads_what_was_trained(weights, tmp_path):
    folder = export.export_encoder(CONFIG, weights, tmp_path / "deep/encoder")
    assert names(folder.parent) == ["encoder"] and set(names(folder)) == export.FILES
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert {f"encoder.{k}" for k in model.state_dict()} == {k for k in weights if k.startswith("encoder.")}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[f"encoder.{name}"]), name


def test_an_old_export_is_replaced(weights, tmp_path):
    folder, link = tmp_path / "encoder", tmp_path / "link"
    link.symlink_to(folder)
    export.export_encoder(CONFIG, weights, folder)
    weights["encoder.cls_token"] += 1
    export.export_encoder(CONFIG, weights, link)
    assert names(tmp_path) == ["encoder", "link"] and link.is_symlink()
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(model.cls_token, weights["encoder.cls_token"])


def test_a_folder_of_something_else_is_left_alone(weights, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"found 'thesis\.tex' there"):
        export.export_encoder(CONFIG, weights, tmp_path)
    assert names(tmp_path) == ["thesis.tex"]


def another_timm(monkeypatch):
    def create_model(*args, **kwargs):
        model = timm.models.create_model(*args, **kwargs)
        model.norm.bias.data += 1e-6
        return model

    monkeypatch.setattr(export.timm, "create_model", create_model)
    return "a loaded copy gives other features"


def another_forward(monkeypatch):
    forward = ViTEncoder.forward
    monkeypatch.setattr(ViTEncoder, "forward", lambda *args: forward(*args) * (1 + 1e-3))
    return "training's forward gives other features"


def not_a_number(monkeypatch):
    forward = ViTEncoder.forward
    monkeypatch.setattr(ViTEncoder, "forward", lambda *args: forward(*args) * float("nan"))
    return "training's forward gives other features"


@pytest.mark.parametrize("fault", [another_timm, another_forward, not_a_number])
def test_a_failed_export_leaves_nothing(weights, tmp_path, monkeypatch, fault):
    """And the earlier export as it was."""
    export.export_encoder(CONFIG, weights, tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    message = fault(monkeypatch)
    weights["encoder.cls_token"] += 1
    for name in ("old", "new"):
        with pytest.raises(RuntimeError, match=message):
            export.export_encoder(CONFIG, weights, tmp_path / name)
    assert names(tmp_path) == ["old"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before
