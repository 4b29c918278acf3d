"""The example of fastmim/model/README.md: a user's own encoder and loss train, resume and load."""

import gc
import importlib
import json
import re
import sys

import pytest
import torch

import fastmim
from fastmim.cli import main as command
from fastmim.config.classify import Finetune, LabelledData
from fastmim.data.crops import CenterCrop
from fastmim.data.demo import write_demo_images
from fastmim.model.build import build
from fastmim.recipe import UniformMasking, change, load
from fastmim.run import checkpoint
from fastmim.tasks import classify
from fastmim.tasks.initial_encoder import load_encoder
from tests.methods.tiny import ROOT
from tests.train import launched

BLOCK = re.compile(r"^```py\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
ENCODER, CONFIG, LOADING, LOSS = BLOCK.findall((ROOT / "fastmim/model/README.md").read_text())
SMALL = """--data.size 16 16 --data.held_out 2 --data.workers 1 --train.precision fp32 --train.global_batch 8
--run.log_every 1 --run.save_every 1 --run.evaluate_every 2"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Returns a folder with the README's files and some images; its modules can be imported."""
    write_demo_images(str(tmp_path / "train"), 10, (20, 20), "train")
    (tmp_path / "two_blocks.py").write_text(ENCODER)
    (tmp_path / "huber.py").write_text(LOSS)
    config = CONFIG.replace("configs/debug", str(ROOT / "configs/debug"))
    config += "\nfrom huber import MaskedHuber\n\nconfig = change(config, loss=MaskedHuber(delta=0.5))\n"
    (tmp_path / "two_blocks_mae.py").write_text(config)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("two_blocks", "huber"):
        sys.modules.pop(name, None)
    gc.collect()  # so that no class of a later test has the name of a class of this one


def train(own, *more):
    words = [own / "two_blocks_mae.py", *SMALL.split(), "--data.root", own / "train", "--run.dir", own / "run", *more]
    return launched.train([str(word) for word in words]).stdout


@pytest.mark.costly("model", "two runs and a load; the first run in a process imports all that training needs")
def test_own_encoder_trains_resumes_and_loads(own):
    first = train(own, "--train.epochs", "2")
    assert max(checkpoint.steps(own / "run/checkpoints")) == 2 and (own / "run/grids/00000002.png").exists()
    assert "MaskedHuber" in first
    assert "continued with train.epochs" in train(own, "--train.epochs", "3", "--encoder.dim", "32")
    assert max(checkpoint.steps(own / "run/checkpoints")) == 3

    two_blocks = importlib.import_module("two_blocks")
    found = {}
    exec(LOADING.replace('"RUN"', repr(str(own / "run"))), found)
    encoder = found["encoder"]
    images = torch.rand(2, 3, 16, 16)
    assert encoder(images).shape == (2, 32) and encoder.dense(images).shape == (2, 32, 4, 4)
    assert [x.shape for x in encoder.stages(images)] == [(2, 32, 4, 4)]

    exported = own / "exported"
    command(["export", str(own / "run"), "--out", str(exported)])
    assert "architecture" not in json.loads((exported / "config.json").read_text()), "timm has no such model"
    again, _ = fastmim.load(exported)
    assert torch.equal(again(images), encoder(images))
    with pytest.raises(SystemExit) as refused:
        command(["export", str(own / "run"), "--to", "mmdet", "--out", str(own / "elsewhere")])
    assert refused.value.code

    config = change(load(ROOT / "configs/debug/tiny_cpu.py"), encoder=two_blocks.TwoBlocks())
    with pytest.raises(ValueError, match="masking.secondary: expected 0 for TwoBlocks"):
        build(change(config, masking=UniformMasking(secondary=0.25)))

    finetune = Finetune(encoder=two_blocks.TwoBlocks(), data=LabelledData(crop=CenterCrop(), size=(16, 16)))
    classifier = classify.build_classifier(finetune, 2, torch.tensor([0, 1]))
    load_encoder(classifier.encoder, own / "run")
    assert torch.equal(classifier.encoder.positions, encoder.encoder.positions)
    classifier(torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8), torch.arange(2)).backward()
    assert all(p.grad is not None for p in classifier.encoder.parameters())
