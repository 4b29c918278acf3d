"""k-NN accuracy of frozen features."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fastmim import cli
from fastmim.analysis import nearest_neighbours
from fastmim.analysis.nearest_neighbours import knn_accuracy
from fastmim.config.config_file import load
from fastmim.config.json_form import to_json
from fastmim.model.build import build
from fastmim.run import checkpoint
from tests.methods.tiny import ROOT, tiny


def test_separable_and_random_features():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    noise = torch.randn(400, 16, generator=generator)
    centres = 5 * torch.randn(4, 16, generator=generator)
    apart = centres[labels] + noise
    for dtype in (torch.float32, torch.float64):
        features = apart.to(dtype)
        assert knn_accuracy(features[:300], labels[:300], features[300:], labels[300:]) > 0.99
    assert knn_accuracy(noise[:300], labels[:300], noise[300:], labels[300:]) < 0.45


def test_votes_are_weighted_by_similarity():
    """One near neighbour outvotes two far neighbours."""
    bank = torch.tensor([[1.0, 0.05], [0.0, 1.0], [-0.2, 1.0]])
    assert knn_accuracy(bank, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), k=3) == 1.0


def test_too_few_features():
    with pytest.raises(ValueError, match="at least k=20"):
        knn_accuracy(torch.randn(5, 2), torch.zeros(5).long(), torch.randn(1, 2), torch.zeros(1).long())


def test_pieces_give_what_the_whole_gives(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    bank_labels, labels = torch.arange(300) % 5, torch.arange(70) % 5
    bank, queries = (torch.eye(8)[x] + 0.5 * torch.randn(len(x), 8, generator=generator) for x in (bank_labels, labels))
    whole = knn_accuracy(bank, bank_labels, queries, labels, k=7)
    assert 0.5 < whole < 1
    monkeypatch.setattr(nearest_neighbours, "_PIECE", 16)
    monkeypatch.setattr(nearest_neighbours, "_BANK_PIECE", 5)
    assert knn_accuracy(bank, bank_labels, queries, labels, k=7) == whole


CONFIG = ROOT / "configs/debug/tiny_cpu.py"


@pytest.mark.parametrize("row", ["debug/tiny_cpu", "a2mim/pretrain/resnet50_300ep"])
def test_the_command(row, tmp_path, capsys):
    """Any network separates classes of different brightness. The second call reads the first call's features."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 5)):
        for name, level in (("a", 40), ("b", 120), ("c", 210)):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                image = np.clip(generator.normal(level, 20, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(image).save(tmp_path / part / name / f"{i}.png")
    config = tiny(load(ROOT / f"configs/{row}.py"))
    config = replace(config, data=replace(config.data, size=(64, 64), root="nowhere", loader="pillow"))
    run, state = tmp_path / "run", build(config).state_dict()
    checkpoint.save(run / "checkpoints", 1, {"model": state}, {"config": to_json(config)}, keep=1)
    words = ["knn", str(run), "--data", str(tmp_path), "--k", "5", "--device", "cpu"]
    cli.main(words)
    assert "of 15 images, 3 classes" in capsys.readouterr().out
    result = json.loads((run / "knn.json").read_text())
    assert result["top1"] > 0.9 and (result["bank"], result["images"]) == (90, 15)
    files = sorted((run / "features").iterdir())
    written = [file.stat().st_mtime_ns for file in files]
    cli.main(words)
    assert len(files) == 2 and json.loads((run / "knn.json").read_text()) == result
    assert [file.stat().st_mtime_ns for file in sorted((run / "features").iterdir())] == written
    cli.main([*words, "--crop-pct", "1.0"])
    assert len(list((run / "features").iterdir())) == 4


def test_images_that_cannot_be_used_are_left_out_and_damaged_features_made_again(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for name, level in (("a", 40), ("b", 210)):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                image = np.clip(generator.normal(level, 20, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(image).save(tmp_path / part / name / f"{i}.png")
    (tmp_path / "train/a/3.png").write_bytes(b"no picture")
    (tmp_path / "test/b/3.png").write_bytes(b"no picture")
    config = tiny(load(CONFIG))
    config = replace(config, data=replace(config.data, size=(64, 64), root="nowhere", loader="pillow"))
    run = tmp_path / "run"
    checkpoint.save(run / "checkpoints", 1, {"model": build(config).state_dict()}, {"config": to_json(config)}, keep=1)
    words = ["knn", str(run), "--data", str(tmp_path), "--k", "5", "--device", "cpu"]
    cli.main(words)
    said = capsys.readouterr().out
    assert "of 11 images, 2 classes" in said and f"left out: {tmp_path / 'train/a/3.png'}: " in said
    result = json.loads((run / "knn.json").read_text())
    assert (result["bank"], result["images"], result["bad_images"], result["top1"]) == (23, 11, 2, 1.0)
    for file in (run / "features").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    cli.main(words)
    assert json.loads((run / "knn.json").read_text()) == result
    (tmp_path / "test/a/4.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        cli.main(words)
    assert (
        f"2 of 12 images in {tmp_path / 'test'} cannot be used, more than data.bad_budget=0.1; the first"
        in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        cli.main(["25" if word == "5" else word for word in words])
    assert "--k 25: expected at most as many as there are images" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([f"{tmp_path}/train" if word == str(tmp_path) else word for word in words])
    assert "/train: expected a folder that holds train/CLASS and test/CLASS, found no train" in capsys.readouterr().err
