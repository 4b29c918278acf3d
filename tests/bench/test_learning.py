"""Features and verdicts of `python -m bench learns`."""

import inspect
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from bench import learning
from bench.learning import accuracies, block_features, learned, pixels
from fastmim.config.config_file import load
from fastmim.data.demo import write_demo_images
from fastmim.tasks.pretrain import build
from tests.methods.tiny import ROOT, tiny


@pytest.fixture
def config():
    config = tiny(load(ROOT / "configs/debug/cifar10_mae.py"))
    return replace(config, data=replace(config.data, size=(32, 32), workers=1))


def test_block_features(config):
    """Features of the last block equal the encoder's output without its final norm, also in a second pass."""
    mim = build(config).eval()
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    found = block_features(mim, images)
    again = block_features(mim, images)
    mim.encoder.norm = nn.Identity()
    with torch.no_grad():
        last = mim.encoder.features(pixels(mim, images))[:, mim.encoder.num_prefix_tokens :].mean(dim=1)
    assert len(found) == len(mim.encoder.blocks) and torch.equal(found[-1], last)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_accuracies(config, tmp_path):
    """Weights that were never trained have the accuracy of the network at initialisation."""
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            write_demo_images(tmp_path / part / name, 10, (48, 48))
    config = replace(config, run=replace(config.run, dir=str(tmp_path)))
    row = accuracies(config, build(config).state_dict(), tmp_path)
    for name in ("knn", "knn_last_block"):
        assert row[name] == row[f"{name}_at_initialisation"] and 0 <= row[name] <= 1


def test_pictures_of_given_images_are_drawn(monkeypatch, tmp_path):
    """The call fits the signature of `fastmim visualize`, and replaces the picture of the run before."""
    calls, signature = [], inspect.signature(learning.visualize)

    def visualize(*words, **options):
        signature.bind(*words, **options)
        calls.append(options)
        Image.new("RGB", (8, 8)).save(options["out"])

    monkeypatch.setattr(learning, "visualize", visualize)
    lines = [{"step": step, "loss": 1.0, "held_out": 1.0} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    row = {f"{name}_loss": 1.0 for name in ("zero", "mean_patch", "interpolation")}
    learning.plot([tmp_path, tmp_path], [row, row], tmp_path / "plot.png", tmp_path)
    assert len(calls) == 2 and all(options["overwrite"] for options in calls)
    assert (tmp_path / "plot.png").stat().st_size > 1000 and not (tmp_path / "plot.tmp.png").exists()


def test_learned():
    row = {"held_out_loss": 0.5, "zero_loss": 1.0, "mean_patch_loss": 0.9, "interpolation_loss": 0.6}
    assert learned(row) and not learned(row | {"held_out_loss": 0.7})
    assert learned(row | {"knn": 0.4, "knn_at_initialisation": 0.3, "held_out_loss": 0.7})
    assert not learned(row | {"knn": 0.3, "knn_at_initialisation": 0.3})
