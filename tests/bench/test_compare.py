"""The whole-step comparison runs, and its arms train alike."""

import re

import pytest
import torch
from torch import nn

from bench.step import compare
from fastmim.config.config_file import load


def test_arms_lose_alike(capsys):
    compare.main(["configs/debug/tiny_cpu.py", "--batch", "4", "--steps", "2", "--arms", "ours,eager,sdpa"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[3] for line in lines] == [" ours", " eager", " sdpa"]
    for line in lines:
        assert float(re.search(r"loss differs: ([^,]+)", line)[1]) < 1e-5
        assert float(re.search(r"saved for backward MiB/image: ([\d.]+)", line)[1]) > 0


def test_a_pair_takes_turns(capsys):
    words = ["configs/debug/tiny_cpu.py", "--pair", "configs/debug/photographs_mae.py", "--batch", "2", "--steps", "1"]
    small = ["--set", "data.size=32,32", "encoder.patch_size=16", "encoder.depth=1", "decoder.depth=1"]
    compare.main([*words, "--arms", "ours,eager", *small])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["debug/tiny_cpu"] * 2 + ["debug/photographs_mae"] * 2
    assert ["over base" in line for line in lines] == [False, False, True, True]


def test_rows_of_a_pair():
    """Each arm is compared with fastmim on its own config, and with the same arm of the first config."""
    torch.manual_seed(0)
    layers = {"a": nn.Linear(4, 8), "b": nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 16))}
    arms = [
        compare.Arm(
            path, name, layers[path], lambda batch, model=layers[path]: model(batch.pixels).square().sum(), None,
            seconds=[seconds], losses=[loss],
        )
        for path, name, seconds, loss in (
            ("a", "ours", 1.0, 2.0), ("a", "eager", 3.0, 2.2), ("b", "ours", 4.0, 5.0), ("b", "eager", 6.0, 5.0)
        )
    ]  # fmt: skip
    batch = compare.Batch(torch.zeros(2, 1), torch.arange(2), torch.rand(2, 4))
    rows = compare.rows(arms, {"a": [batch], "b": [batch]}, "fp32, batch 2")
    assert [row["ours is faster"] for row in rows] == [1.0, 3.0, 1.0, 1.5]
    assert [row.get("time over base") for row in rows] == [None, None, 4.0, 2.0]
    assert rows[1]["loss differs"] == pytest.approx(0.1) and rows[3]["loss differs"] == 0
    assert rows[2]["memory over base"] > 1


def test_the_baseline_is_channels_last_with_a_fused_optimizer():
    path = "configs/debug/tiny_cpu.py"
    arm, (batch,) = compare.build_arm("eager", path, load(path)), compare.make_batches(load(path), 2, 1, True)
    weights = [p for p in arm.model.parameters() if p.ndim == 4]
    for tensor in (batch.pixels, *weights):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert weights and all(group["fused"] for group in arm.optimizer.param_groups)


def test_every_mode_of_the_compiler_is_tried_and_what_was_measured_is_kept(monkeypatch, capsys, tmp_path):
    """An arm is recorded before the next arm starts; a mode that fails does not affect the other arms."""
    recorded, modes = [], []

    def compiled(model, mode):
        modes.append((mode, list(recorded)))
        if mode == "max-autotune":
            raise RuntimeError("no kernel\n  fits")
        return model

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(compare, "record", lambda row, theme: recorded.append(row["case"].split(", ")[-1]))
    monkeypatch.setattr(compare.Record, "__call__", lambda self, parser, args, *_: setattr(args, "record", True))
    words = ["configs/debug/tiny_cpu.py", "--batch", "2", "--steps", "1", "--record"]
    compare.main([*words, "--arms", f"ours,eager,{','.join(compare.COMPILED)}"])
    before = ["ours", "eager"]
    assert modes == [
        ("default", before), ("max-autotune", [*before, "compile"]), ("reduce-overhead", [*before, "compile"])
    ]  # fmt: skip
    assert recorded == ["ours", "eager", "compile", "compile-reduce-overhead"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "compile-max-autotune does not run: no kernel fits"
    assert all("loss differs" in line for line in lines if line != lines[3])


def test_an_arm_alone(capsys):
    compare.main(["configs/debug/tiny_cpu.py", "--batch", "2", "--steps", "1", "--arms", "eager"])
    (line,) = capsys.readouterr().out.splitlines()
    assert ", eager, " in line and "ours is faster" not in line


def test_no_sdpa_without_attention(monkeypatch):
    class Convolution(nn.Module):
        pass

    monkeypatch.setattr(compare.published, "build", lambda cfg, attention: (Convolution(), None))
    path = "configs/debug/tiny_cpu.py"
    assert compare.build_arm("sdpa", path, load(path)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--arms", "ours,theirs"],
            f"--arms: expected some of {','.join(compare.ARMS)}, got 'theirs'",
        ),
        (["--batch", "0"], "of at least 1"),
        (["configs/mae/pretrain/vit_bose_patch16_224_800ep.py"], "did you mean"),
        (["configs/debug/cifar10_probe_vit.py"], "is a Probe: expected a config of pre-training"),
    ],
)
def test_bad_arguments_are_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as refusal:
        compare.main(arguments)
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err
