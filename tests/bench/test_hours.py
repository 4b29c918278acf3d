"""The projection of hours runs on the real loader, and its arithmetic is right."""

import pytest

from bench import record
from bench.step import hours, trial
from fastmim.config.config_file import load
from fastmim.data.demo import write_demo_images

CONFIG = "configs/debug/tiny_cpu.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_demo_images(str(folder), 48, (48, 48))
    return str(folder)


def test_it_runs_and_records(images, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record.sys, "orig_argv", ["python", "-m", "bench", "hours", CONFIG])
    monkeypatch.setattr(hours, "matmul_rate", lambda device, dtype: 1e12)
    words = [
        CONFIG,
        CONFIG,
        "--data",
        images,
        "--batch",
        "4",
        "--steps",
        "3",
        "--warmup",
        "1",
        "--peak",
        "2",
        "--record",
    ]
    hours.main([*words, "--set", "data.size=32,32", "train.precision=fp32", "data.workers=1"])
    lines = capsys.readouterr().out.splitlines()
    projected = "projected for 4 epochs of 40 images (those of data.root)"
    assert sum("CPU: " in line and projected in line for line in lines) == 2
    rows = record.read("hours")
    assert len(rows) == 2
    for row in rows:
        assert row["config"] == CONFIG and row["batch"] == 4 and row["provenance"]["device"] == "cpu"
        assert 0 <= row["data stall"] < 1
        assert row["projected hours"] == pytest.approx(4 * 40 / row["images/s"] / 3600)  # 8 of 48 images are held out
        assert row["HMU"] == pytest.approx(2 * row["MFU"]) and row["FLOPs of"].startswith("what is computed")


def test_figures_of_a_row():
    cfg = load("configs/mae/pretrain/vit_base_patch16_224_800ep.py")
    result = trial.Trial("cuda", "autocast", 2, 100, [0.1, 0.2, 0.3], [0.0, 0.06, 0.0], [1.0] * 5, 1, 1, 1, 50_000)
    row = hours.row("configs/x.py", cfg, result, 500e12, 1_000_000, 989e12)
    assert row["images/s"] == 1000 and row["s/step"] == 0.2 and row["data stall"] == pytest.approx(0.1)
    assert row["projected hours"] == pytest.approx(800 * 1_000_000 / 1000 / 3600)
    assert row["HMU"] == pytest.approx(500 * 3 * 19.067e9 / 500e12, rel=1e-3)  # of one device
    assert row["MFU"] == pytest.approx(row["HMU"] * 500 / 989)
    assert "800 epochs of 1000000 images (given by --images)" in hours.text(row | {"device": "cpu"})
    of_folder = hours.row("configs/x.py", cfg, result, 500e12, None, None)
    assert of_folder["projected hours"] == pytest.approx(row["projected hours"] / 20)
    assert "800 epochs of 50000 images (those of data.root)" in hours.text(of_folder | {"device": "cpu"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([CONFIG, "--batch", "0"], "of at least 1"),
        ([CONFIG, "--set", "train.epoch=3"], "nearest: --train.epochs"),
        ([CONFIG, "--set", "train.epochs"], "expected section.field=value"),
        (["configs/debug/tiny_gpu.py"], "did you mean"),
        (["configs/debug/cifar10_finetune_vit.py"], "is a Finetune: expected a config of pre-training"),
    ],
)
def test_bad_arguments_are_one_line(capsys, words, message):
    with pytest.raises(SystemExit) as refusal:
        hours.main(words)
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err
