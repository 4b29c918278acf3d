"""The loader benchmark runs, and everybody makes the same number of images of the same shape."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastmim.data.manifest import Manifest


@pytest.fixture(scope="module")
def loader():
    from bench.step import loader  # imports torchvision, which takes a while

    return loader


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg")
    return str(tmp_path)


def test_contenders_make_the_same_batches(loader, folder):
    setting = loader.Setting(Manifest.scan(folder), 4, 3, 1, torch.device("cpu"))
    for name in ("ours, DALI", "ours, Pillow", "stock DALI"):
        batches = list(loader.CONTENDERS[name](setting))
        assert [(batch.shape, batch.dtype) for batch in batches] == [((4, 224, 224, 3), torch.uint8)] * 3, name
    # Worker processes take seconds to start; what they run does not.
    files = loader.Files(setting, normalised=False)
    assert len(files) == 12 and files[11].shape == (3, 224, 224) and files[11].dtype == torch.uint8


def test_rows(loader, folder, capsys, monkeypatch):
    monkeypatch.setattr(loader, "CONTENDERS", {name: loader.CONTENDERS[name] for name in ("ours, DALI", "stock DALI")})
    loader.main(["--data", folder, "--batch", "4", "--batches", "4", "--rounds", "2", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    # A benchmark that is stopped half-way has printed its measurements so far.
    names = ["ours, DALI", "stock DALI", "stock DALI", "ours, DALI"]
    starts = [f"round {turn // 2 + 1}, {name}: " for turn, name in enumerate(names)]
    assert all(line.startswith(start) for line, start in zip(lines[:4], starts, strict=True))
    assert "ours, DALI" in lines[4] and "ours is faster: 1" in lines[4] and "stock DALI" in lines[5]


def test_a_machine_of_many_cores_needs_no_other_options(loader, folder, monkeypatch):
    given = []
    monkeypatch.setattr(loader, "images_per_second", lambda contender, setting: given.append(setting) or 1.0)
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda _: set(range(16)))
    loader.main(["--data", folder])
    assert {(setting.threads, setting.batches) for setting in given} == {(16, 64)}


def test_without_dali_the_rest_is_measured(loader, folder, monkeypatch, capsys):
    monkeypatch.setattr(loader, "has_dali", lambda: False)
    monkeypatch.setattr(loader, "images_per_second", lambda contender, setting: 1.0)
    loader.main(["--data", folder, "--rounds", "1"])
    said = capsys.readouterr().out
    assert said.startswith("DALI is not installed") and "DALI:" not in said and said.count("ours, Pillow") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batches", "4", "--threads", "2"], "--batches: expected more than 4, which are 2 a thread, got 4"),
        (["--threads", "0"], "--threads"),
        (["--bad", "nowhere"], "no folder of images or list file at"),
    ],
)
def test_bad_arguments_are_one_line(loader, folder, capsys, words, message):
    with pytest.raises(SystemExit) as refusal:
        loader.main(["--data", folder, *words])
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err
