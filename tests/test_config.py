"""Configs: every file loads, builds and is listed; overrides say what is wrong in one line; JSON round-trips."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastmim.config import from_json, load, override, to_json
from fastmim.tasks.pretrain import PARTS, build, total_steps

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
TINY = ROOT / "configs/debug/tiny_cpu.py"

# The paper's models: trained parameters (millions) of encoder + decoder, and of the frozen position embeddings.
PARAMETERS = {
    "vit_base_patch16": (85.647 + 26.008, 0.252),
    "vit_large_patch16": (303.100 + 26.139, 0.303),
    "vit_huge_patch14": (630.436 + 26.178, 0.461),
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_every_config_builds_and_is_listed(path):
    config = load(path)
    with torch.device("meta"):
        mim = build(config)
    trained = sum(p.numel() for p in mim.parameters() if p.requires_grad) / 1e6
    frozen = sum(p.numel() for p in mim.parameters() if not p.requires_grad) / 1e6
    for name, expected in PARAMETERS.items():
        if path.name.startswith(name):
            assert (round(trained, 3), round(frozen, 3)) == pytest.approx(expected, abs=1.5e-3)
    assert str(path.relative_to(ROOT / "configs")) in (ROOT / "configs/README.md").read_text()
    assert from_json(json.loads(json.dumps(to_json(config))), PARTS) == config


def test_mae_recipe():
    """The fact sheet's table, section 0."""
    config = load(ROOT / "configs/mae/pretrain/vit_base_patch16_224_800ep.py")
    optim, train, data = config.optim, config.train, config.data
    assert (optim.blr, optim.lr_batch, optim.betas, optim.eps) == (1.5e-4, 256, (0.9, 0.95), 1e-8)
    assert (optim.weight_decay, optim.clip, optim.min_lr, optim.warmup_epochs) == (0.05, None, 0.0, 40)
    assert (train.epochs, train.global_batch) == (800, 4096)
    assert optim.blr * train.global_batch / optim.lr_batch == pytest.approx(2.4e-3)
    assert (data.size, data.crop.scale, data.crop.ratio, data.crop.interpolation, data.flip) == (
        (224, 224), (0.2, 1.0), (3 / 4, 4 / 3), "bicubic", 0.5
    )  # fmt: skip
    assert (config.decoder.dim, config.decoder.depth, config.decoder.num_heads) == (512, 8, 16)
    assert total_steps(config, 1_281_167) == 800 * 1_281_167 // 4096


def test_overrides():
    config = override(
        load(TINY),
        ["--masking.ratio", "0.6", "--data.size", "64", "64", "--run.resume", "False", "--optim.clip=1.5"],
        prog="t",
    )
    assert (config.masking.ratio, config.data.size, config.run.resume, config.optim.clip) == (0.6, (64, 64), False, 1.5)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--train.epchs", "3"], ["train.epchs", "no such setting", "train.epochs"]),
        (["--masking.ration=0.5"], ["masking.ration", "masking.ratio"]),
        (["--train.epochs", "many"], ["train.epochs", "float", "many"]),
        (["--train.precision", "fp8"], ["train.precision", "bf16-master", "fp8", "nearest: fp32"]),
        (["--masking.ratio", "1.5"], ["masking.ratio", "between 0 and 1", "1.5"]),
        (["--decoder.num_heads", "3"], ["decoder.num_heads", "multiple"]),
        (["--run.save_every"], ["run.save_every", "int", "nothing"]),
        (["--run.resume", "maybe"], ["run.resume", "bool", "maybe"]),
        (["--train.zero_stage", "4"], ["train.zero_stage", "one of 0, 1, 2, 3", "4"]),
        (["0.5"], ["'0.5'", "--section.field VALUE"]),
    ],
)
def test_bad_overrides_get_one_line(args, words, capsys):
    with pytest.raises(ValueError) as error:
        override(load(TINY), args, prog="t")
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert capsys.readouterr() == ("", "")


def test_config_files_that_are_not(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(ValueError, match="did you mean .*tiny_cpu.py"):
        load(TINY.with_name("tiny_cp.py"))
    with pytest.raises(ValueError, match=r"expected it to end with `config = Config"):
        load(tmp_path / "empty.py")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(size=(34, 32)), "multiple of the patch size"),
        (dict(size=(4, 4)), "at least one must be visible"),
    ],
)
def test_sizes_that_do_not_fit(change, words):
    config = load(TINY)
    with pytest.raises(ValueError, match=words):
        build(replace(config, data=replace(config.data, **change)))


def test_too_little_data():
    with pytest.raises(ValueError, match="fewer than one update"):
        total_steps(load(TINY), 3)


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="part 'Trojan' is unknown"):
        from_json({"part": "Trojan"}, PARTS)
    with pytest.raises(ValueError, match="no field nonsense"):
        from_json({"part": "Run", "nonsense": 1}, PARTS)
