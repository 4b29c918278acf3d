"""Tests of configs: every file loads, builds and is listed; mistakes get one line; a config survives JSON."""

import ast
import itertools
import json
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastmim import recipe
from fastmim.config.base import Config
from fastmim.config.change import change
from fastmim.config.classify import Finetune, Probe
from fastmim.config.config_file import load
from fastmim.config.detect import Detect
from fastmim.config.fields import check_types
from fastmim.config.json_form import from_json, to_json
from fastmim.config.overrides import leaf_fields, override
from fastmim.config.segment import Segment
from fastmim.config.suggestions import ELSEWHERE
from fastmim.engine.optim import parameter_groups
from fastmim.model.build import build
from fastmim.model.encoders import ViT
from fastmim.tasks import classify, detect, segment
from fastmim.tasks.training_set import total_steps
from tests.sweep import covering

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
TINY = ROOT / "configs/debug/tiny_cpu.py"
LISTED = (ROOT / "configs/README.md").read_text()

# The paper's models: trained parameters (millions) of encoder + decoder, and of the frozen position embeddings.
PARAMETERS = {
    "mae/pretrain/vit_base_patch16": (85.647 + 26.008, 0.252),
    "mae/pretrain/vit_large_patch16": (303.100 + 26.139, 0.303),
    "mae/pretrain/vit_huge_patch14": (630.436 + 26.178, 0.461),
}


BUILDERS = {
    Config: build,
    Segment: segment.build_segmenter,
    **dict.fromkeys(
        (Finetune, Probe), lambda config: classify.build_classifier(config, 1000, torch.zeros(1, dtype=torch.int64))
    ),
    Detect: lambda config: detect.build_detector(config, 80),
}


def name(path: Path) -> str:
    return path.relative_to(ROOT / "configs").as_posix()


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_every_config_is_listed_and_survives_json(path):
    config = load(path)
    assert name(path) in LISTED
    assert from_json(json.loads(json.dumps(to_json(config))), recipe) == config


FAMILIES = re.compile("a2mim|convmae|convnext|lsmae|mae|pvt|resnet|swin|um_mae|vit|huge|large")


def facts(path: Path) -> set[tuple[str, ...]]:
    """Returns the facts of a config: pairs of method, task and network family; the paper's models."""
    method, kind, *_ = name(path).split("/")
    families = FAMILIES.findall(path.stem) or ["other"]
    found = {(method, kind), *((method, family) for family in families), *((kind, family) for family in families)}
    return found | {(model,) for model in PARAMETERS if name(path).startswith(model)}


@pytest.mark.parametrize("path", covering([(path,) for path in CONFIGS], facts, id=name))
def test_every_config_builds(path):
    config = load(path)
    with torch.device("meta"):
        mim = BUILDERS[type(config)](config)
    trained = sum(p.numel() for p in mim.parameters() if p.requires_grad) / 1e6
    frozen = sum(p.numel() for p in mim.parameters() if not p.requires_grad) / 1e6
    for model, expected in PARAMETERS.items():
        if name(path).startswith(model):
            assert (round(trained, 3), round(frozen, 3)) == pytest.approx(expected, abs=1.5e-3)
    parameter_groups(mim, config.optim)  # this call refuses a pattern that matches no parameter's name


def test_the_tables_list_each_config_once_with_its_published_numbers():
    """The first lines of a config state the published numbers, and its row repeats them."""
    rows = re.findall(r"^\|.*\| `([\w/]+\.py)` \| (.*) \|$", LISTED, flags=re.MULTILINE)
    assert sorted(path for path, _ in rows) == sorted(map(name, CONFIGS))
    for path, published in rows:
        text = ast.get_docstring(ast.parse((ROOT / "configs" / path).read_text())) or ""
        missing = [number for number in re.findall(r"\d+\.\d+", published) if number not in text]
        assert path.startswith("debug/") or not missing, f"{path} does not say {missing}"


def test_mae_recipe():
    """The values are the settings of MAE's pre-training."""
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


def test_overrides_of_the_optimiser():
    """Patterns and pairs come from the command line, and survive JSON unchanged."""
    args = "--optim.schedule multistep --optim.decay-epochs 70 90 --optim.no-decay mask_token cls_token"
    args += r" --optim.decay downsample\.1\.weight --optim.lr-scale mask_token 0.1 mask_gamma 0.5"
    config = override(load(TINY), args.split(" "), prog="t")
    optim = config.optim
    assert (optim.schedule, optim.decay_epochs, optim.no_decay) == ("multistep", (70, 90), ("mask_token", "cls_token"))
    assert (optim.decay, optim.lr_scale) == ((r"downsample\.1\.weight",), (("mask_token", 0.1), ("mask_gamma", 0.5)))
    assert from_json(json.loads(json.dumps(to_json(config))), recipe) == config
    with pytest.raises(
        ValueError, match="expected one of cosine, linear, multistep .*got multi_step; nearest: multistep"
    ):
        override(load(TINY), ["--optim.schedule", "multi_step"], prog="t")


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
        (["--train.epochs", "many"], ["train.epochs", "a number", "many"]),
        (["--train.precision", "bf16"], ["train.precision", "bf16-master", "got bf16", "nearest: autocast"]),
        (["--masking.ratio", "1.5"], ["masking.ratio", "between 0 and 1", "1.5"]),
        (["--decoder.num_heads", "3"], ["decoder.num_heads", "multiple"]),
        (["--encoder.num_heads", "3"], ["encoder.embed_dim=64 must be a multiple of encoder.num_heads=3"]),
        (["--run.save_every"], ["run.save_every", "a whole number", "nothing"]),
        (["--run.resume", "maybe"], ["run.resume", "True or False", "maybe"]),
        # A decoder of 30 and 3 heads is right, 3 heads alone are not.
        (["--decoder.num_heads=3", "--decoder.dim=30", "--masking.ratio=1.5"], ["masking.ratio", "between"]),
        (["--decoder.num_heads=3", "--decoder.dim=30", "--train.epochs=many"], ["train.epochs", "a number", "many"]),
        (["--train.zero_stage", "4"], ["train.zero_stage", "one of 0, 1, 2, 3", "4"]),
        (["0.5"], ["0.5: ", "--section.field VALUE"]),
        (["--batch-size", "32"], ["--train.global_batch", "images per update"]),
        (["--data", "images"], ["--data.root"]),
        (["--optim.lr", "0.1"], ["--optim.blr", "train.global_batch / optim.lr_batch"]),
        (["--optim.epochs", "3"], ["nearest: --train.epochs"]),
        (["--depth", "3"], ["--encoder.depth", "or --decoder.depth"]),
        (["--gpus", "2"], ["deepspeed --num_gpus"]),
        (["--encoder", "vit"], ["a group of settings", "--encoder.name"]),
        (["--zzz", "3"], ["--zzz: no such setting; CONFIG --help lists them"]),
        (["\u2014train.epochs", "3"], ["two hyphens"]),
        (["-train.epochs", "3"], ["write --train.epochs VALUE"]),
        (["train.epochs=3"], ["write --train.epochs VALUE"]),
        (["--train.epochs", "=", "3"], ["--train.epochs: expected a number", "got = 3"]),
        (["--train.epochs", "1e400"], ["train.epochs", "got inf"]),
        (["--data.size", "32,32"], ["--data.size: expected 2 whole numbers, with spaces", "(currently 32 32)"]),
        (["--run.dir", "a", "b"], ["--run.dir: expected one text, in quotes", "got a b"]),
        (["--train.device", "gpu"], ["got gpu; nearest: cuda"]),
        (["--data.\x1b[31m", "3"], ["--data.\\x1b[31m: no such setting"]),
    ],
)
def test_bad_overrides_get_one_line(args, words, capsys):
    with pytest.raises(ValueError) as error:
        override(load(TINY), args, prog="t")
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("setting", "values", "expected"),
    [
        ("run.log_every", "0", "at least 1"),
        ("run.save_every", "0", "at least 1"),
        ("run.keep", "0", "at least 1"),
        ("run.evaluate_every", "-1", "at least 0"),
        ("run.stop_after", "0", "at least 1 or None"),
        ("train.micro_batch", "0", "at least 1 or None"),
        ("train.micro_batch", "-4", "at least 1 or None"),
        ("train.global_batch", "0", "at least 1"),
        ("train.epochs", "0.0", "above 0 and at most 1000000000"),
        ("train.epochs", "-1.0", "above 0 and at most 1000000000"),
        ("train.epochs", "nan", "above 0 and at most 1000000000"),
        ("train.epochs", "inf", "above 0 and at most 1000000000"),
        ("train.seed", "-1", "at least 0"),
        ("train.seed", str(2**63), "whole numbers below 2**63"),
        ("train.max_skipped", "0", "at least 1"),
        ("optim.lr_batch", "0", "at least 1"),
        ("optim.clip", "-1.0", "above 0 and below inf or None"),
        ("optim.clip", "0.0", "above 0 and below inf or None"),
        ("optim.warmup_epochs", "-1.0", "at least 0 and below inf"),
        ("optim.blr", "-0.1", "at least 0 and below inf"),
        ("optim.min_lr", "-0.1", "at least 0 and below inf"),
        ("optim.weight_decay", "-0.1", "at least 0 and below inf"),
        ("optim.eps", "0.0", "above 0 and below inf"),
        ("optim.betas", "0.9 1.0", "at least 0 and below 1"),
        ("data.mean", "0.5 nan 0.5", "above -inf and below inf"),
        ("data.std", "0.2 0.0 0.2", "above 0 and below inf"),
        ("data.flip", "7.0", "at least 0 and at most 1"),
        ("data.size", "0 0", "at least 1 and at most 16384"),
        ("data.repeats", "0", "at least 1 and at most 256"),
        ("data.repeats", "257", "at least 1 and at most 256"),
        ("data.held_out", "-1", "at least 0"),
        ("data.workers", "-1", "at least 0 and at most 1024"),
        ("data.prefetch", "-1", "at least 0 and at most 1024"),
    ],
)
def test_bounds(setting, values, expected):
    got = f"({values.replace(' ', ', ')})" if " " in values else values
    with pytest.raises(ValueError) as error:
        override(load(TINY), [f"--{setting}", *values.split()], prog="t")
    assert str(error.value) == f"{setting}: expected {expected}, got {got}"


@pytest.mark.parametrize("text", ["", "  ", "none", "Null", "~/images", "C:\\\\images"])
@pytest.mark.parametrize(
    "config",
    ["debug/tiny_cpu.py", "debug/cifar10_probe_vit.py", "debug/shapes_detect_vit.py", "debug/shapes_segment_vit.py"],
)
def test_a_text_that_is_no_path_or_name_is_refused_wherever_one_is_expected(config, text):
    config = load(ROOT / "configs" / config)
    texts = [name for name, kind, _ in leaf_fields(config) if kind in ("str", "str | None")]
    assert {"data.root", "run.dir", "run.init", "train.deepspeed"} < set(texts)
    for name in texts:
        with pytest.raises(ValueError, match=f"^(--)?{name}: expected .*, got"):
            override(config, [f"--{name}={text}"], prog="t")


def test_an_empty_text_among_others_is_refused():
    with pytest.raises(ValueError, match=r"^optim\.no_decay: expected a path or name, got an empty one"):
        check_types(replace(load(TINY).optim, no_decay=("cls_token", " ")), "optim.")


def test_names_of_other_programs_lead_to_settings_that_exist():
    known = {name for path in CONFIGS[:: len(CONFIGS) // 8] for name, _, _ in leaf_fields(load(path))}
    assert {setting for setting, _ in ELSEWHERE.values() if setting} <= known


def test_bounds_are_inside():
    edges = {
        "run.evaluate_every": "0", "run.keep": "1", "run.stop_after": "None", "train.micro_batch": "1",
        "train.epochs": "0.3", "train.seed": str(2**63 - 1), "optim.blr": "0.0", "optim.warmup_epochs": "0",
        "data.flip": "1", "data.repeats": "256", "data.held_out": "0", "data.workers": "0", "data.prefetch": "0",
    }  # fmt: skip
    config = override(load(TINY), [f"--{name}={value}" for name, value in edges.items()], prog="t")
    assert (config.train.seed, config.data.repeats, config.run.stop_after) == (2**63 - 1, 256, None)


@pytest.mark.parametrize("setting", ["mean", "std"])
def test_mean_and_std_agree(setting):
    config = load(TINY)
    with pytest.raises(
        ValueError, match=r"^data\.mean and data\.std: expected one number per channel, got .*\(0\.5,\)"
    ):
        override(config, [f"--data.{setting}", "0.5"], prog="t")
    grey = override(config, ["--data.mean", "0.5", "--data.std", "0.2"], prog="t")
    assert (grey.data.mean, grey.data.std) == ((0.5,), (0.2,))


def test_config_files_that_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"did you mean {TINY}"):  # typed in another folder than the repository's
        load("configs/debug/tiny_cpu.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "run.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.py")
    for name, found in (("folder.py", "a folder"), ("run.json", "another file"), ("pipe.py", "another file")):
        with pytest.raises(ValueError, match=f"^{name}: expected a config file .Python.; found {found} there"):
            load(name)
    (tmp_path / "loop.py").write_text("from fastmim.recipe import load\nconfig = load('loop.py')")
    with pytest.raises(ValueError, match="loop.py:2: loop.py: expected a config file that does not load itself$"):
        load("loop.py")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit('bye')")
    with pytest.raises(ValueError, match="^exits.py:2: SystemExit: bye$"):
        load("exits.py")
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(ValueError, match="did you mean .*tiny_cpu.py"):
        load(TINY.with_name("tiny_cp.py"))
    with pytest.raises(ValueError, match=r"expected it to end with `config = Config"):
        load(tmp_path / "empty.py")


HEAD = f"""from dataclasses import replace

from fastmim.recipe import ResNet, Train, ViT, change, load
tiny = load({str(TINY)!r})
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config = replace(tiny, train=Train(epchs=4))", "5: Train has no field epchs; nearest: epochs"),
        ("config = replace(tiny, run=replace(tiny.run, kep=4))", "5: Run has no field kep; nearest: keep"),
        ("config = replace(tiny, trian=Train())", "5: Config has no field trian; nearest: train"),
        ("config = replace(tiny, encoder=ViT(deptj=4))", "5: ViT has no field deptj; nearest: depth"),
        ("config = replace(tiny, encoder=ResNet(deptj=4))", "5: ResNet has no field deptj; nearest: depths"),
        ("config = change(tiny, train=dict(epchs=4))", "5: Train has no field epchs; nearest: epochs"),
        ("config = change(tiny, trian=dict(epochs=4))", "5: Config has no field trian; nearest: train"),
        ("config = change(tiny, train=dict(epochs=-1))", "5: train.epochs: expected above 0"),
        ("config = change(tiny, train=4)", " train: expected Train, got 4"),
        ("config = dict(", "5: SyntaxError: "),
        ("import nothing_of_this_name", "5: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("config = tiny\n\nraise OSError('two\\nlines')", "7: OSError: two lines"),
        ("config = load('nothing.py')", "5: {folder}/nothing.py: expected a config file (Python)"),
        ("train = Train(epochs='many')", "5: train.epochs: expected float, got 'many'"),
        ("train = Train(micro_batch=2.5)", "5: train.micro_batch: expected int | None, got 2.5"),
        ("train = Train(seed=True)", "5: train.seed: expected int, got True"),
        ("train = Train(zero_stage=4)", "5: train.zero_stage: expected one of 0, 1, 2, 3, got 4"),
        ("train = Train(epochs=0)", "5: train.epochs: expected above 0 and at most 1000000000, got 0"),
        ("train = Train(epochs=1e300)", "5: train.epochs: expected above 0 and at most 1000000000, got 1e+300"),
        ("train = Train(global_batch=10**400)", "5: train.global_batch: expected whole numbers below 2**63"),
        ("data = replace(tiny.data, size=[32, 32])", "5: data.size: expected tuple[int, int], got [32, 32]"),
        ("data = replace(tiny.data, size=(32,))", "5: data.size: expected tuple[int, int], got (32,)"),
        ("data = replace(tiny.data, mean=('a',))", "5: data.mean: expected tuple[float, ...], got ('a',)"),
        ("data = replace(tiny.data, crop=None)", "5: data.crop: expected Crop, got None"),
        ("config = replace(tiny, encoder=ViT(depth='4'))", "5: encoder.depth: expected int | None, got '4'"),
        ("config = replace(tiny, encoder=ViT)", " encoder: expected Encoder, got <class"),
        ("config = replace(tiny, encoder=object())", " encoder: expected Encoder, got <object object>"),
    ],
)
def test_mistakes_in_a_config_file(line, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(HEAD + line + "\n")
    with pytest.raises(ValueError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}:{message.format(folder=tmp_path)}")
    assert "\n" not in str(error.value)


def test_a_mistake_in_a_config_that_a_config_loads(tmp_path):
    (tmp_path / "inner.py").write_text("\nconfig = undefined\n")
    (tmp_path / "outer.py").write_text("from fastmim.recipe import load\nconfig = load('inner.py')\n")
    inner = f"{tmp_path}/inner.py:2: NameError: name 'undefined' is not defined"
    with pytest.raises(ValueError) as error:
        load(tmp_path / "outer.py")
    assert str(error.value) == f"{tmp_path}/outer.py:2: {inner}"


def test_a_config_file_that_is_no_text(tmp_path):
    (tmp_path / "bytes.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(ValueError, match=r"bytes\.py:1: .*utf-8"):
        load(tmp_path / "bytes.py")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(size=(34, 32)), "multiple of 4 .*nearest is"),
        (dict(size=(4, 4)), "at least one must be visible"),
    ],
)
def test_sizes_that_do_not_fit(change, words):
    config = load(TINY)
    with pytest.raises(ValueError, match=words):
        build(replace(config, data=replace(config.data, **change)))


def test_too_little_data():
    config = load(TINY)
    config = replace(config, train=replace(config.train, epochs=1, global_batch=32))
    assert total_steps(config, 32) == 1
    with pytest.raises(ValueError, match="fewer than one update"):
        total_steps(config, 31)


def test_change():
    tiny = load(TINY)
    changed = change(tiny, train=dict(epochs=9), encoder=ViT("vit_base_patch16_224"), run=change(tiny.run, keep=5))
    assert (changed.train.epochs, changed.train.global_batch) == (9, tiny.train.global_batch)
    assert (changed.encoder.depth, changed.run.keep, changed.run.log_every) == (None, 5, tiny.run.log_every)


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("mine.py", "runs/mine"),
        ("configs/mine.py", "runs/mine"),
        ("configs/mae/pretrain/mine.py", "runs/mae_mine"),
        ("configs/mae/finetune/mine.py", "runs/mae_finetune_mine"),
        ("configs/debug/debug.py", "runs/debug"),
        ("configs/old/configs/mine.py", "runs/mine"),
    ],
)
@pytest.mark.parametrize("base", ["a folder of its own", "none"])
def test_a_config_has_a_run_folder_of_its_own(path, folder, base, tmp_path):
    """A config that loads another config does not train in the other config's folder."""
    path = tmp_path / path
    path.parent.mkdir(parents=True, exist_ok=True)
    run = ", run=dict(dir='runs/own')" if base != "none" else ""
    (path.parent / "base.py").write_text(
        f"from fastmim.recipe import change, load\nconfig = change(load({str(TINY)!r}){run})"
    )
    path.write_text("from fastmim.recipe import change, load\nconfig = change(load('base.py'), train=dict(epochs=9))")
    assert load(path).run.dir == folder
    path.write_text("from fastmim.recipe import change, load\nconfig = change(load('base.py'), run=dict(dir='runs/x'))")
    assert load(path).run.dir == "runs/x"


@pytest.mark.parametrize("folder", ["runs/run", "runs/base"])
def test_a_run_folder_that_a_config_gives_is_kept(folder, tmp_path):
    """The folder may equal the default, or the folder of the config that the file loads, to continue that run."""
    (tmp_path / "base.py").write_text(f"from fastmim.recipe import load\nconfig = load({str(TINY)!r})")
    (tmp_path / "copy.py").write_text(
        f"from fastmim.recipe import change, load\nconfig = change(load('base.py'), run=dict(dir={folder!r}))"
    )
    assert load(tmp_path / "base.py").run.dir == "runs/base"
    config = load(tmp_path / "copy.py")
    assert config.run.dir == folder
    assert pickle.loads(pickle.dumps(config)) == config


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of JSON values by dotted name, without the run folder."""
    if not isinstance(value, dict):
        return {} if prefix == ".run.dir" else {prefix: value}
    return {name: leaf for key, inner in value.items() for name, leaf in leaves(inner, f"{prefix}.{key}").items()}


def test_similar_configs_load_each_other():
    """A reader sees what a row changes. Two configs without `load` differ in many settings, or in their class."""
    whole = {name(path): leaves(to_json(load(path))) for path in CONFIGS if "load(" not in path.read_text()}
    missing = object()
    for (one, first), (other, second) in itertools.combinations(whole.items(), 2):
        different = [key for key in first | second if first.get(key, missing) != second.get(key, missing)]
        assert len(different) >= 8 or ".part" in different, f"{one} and {other} differ only in {different}"


def test_a_path_is_relative_to_the_config_file_that_is_running(tmp_path, monkeypatch):
    """A function of another module may call `load`. Outside a config file, the current folder counts."""
    (tmp_path / "helper_of_configs.py").write_text(
        "from fastmim.recipe import load\ndef base(): return load('base.py')"
    )
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/base.py").write_text(TINY.read_text().replace('"../', f'"{TINY.parents[1]}/'))
    (tmp_path / "rows/mine.py").write_text("from helper_of_configs import base\nconfig = base()")
    monkeypatch.syspath_prepend(tmp_path)
    assert load(tmp_path / "rows/mine.py").train == load(TINY).train
    monkeypatch.chdir(tmp_path / "rows")
    assert load("mine.py").run.dir == "runs/mine"
    with pytest.raises(ValueError, match=r"^base\.py: expected a config file"):
        monkeypatch.chdir(tmp_path)
        load("base.py")


OWN = """from dataclasses import dataclass
from fastmim.recipe import MaskedL1, ViT, change, load

@dataclass(frozen=True)
class {name}(MaskedL1):
    weight: float = 1.0

config = change(load({tiny!r}), loss={name}(weight=2.0))
"""


def test_json_can_name_a_class_of_the_user_once_it_is_loaded(tmp_path):
    stored = to_json(load(TINY)) | {"loss": {"part": "LossOfMine", "weight": 2.0}}
    with pytest.raises(
        ValueError, match=r"^loss: config part 'LossOfMine' is unknown: .* import the module that defin"
    ):
        from_json(stored, recipe)
    (tmp_path / "mine.py").write_text(OWN.format(name="LossOfMine", tiny=str(TINY)))
    config = load(tmp_path / "mine.py")
    assert to_json(config)["loss"] == stored["loss"]
    assert from_json(to_json(config), recipe) == config
    again = load(tmp_path / "mine.py")  # this load defines the class once more
    assert from_json(to_json(config), recipe) == again


def test_a_class_of_the_user_has_a_name_of_its_own(tmp_path):
    (tmp_path / "mine.py").write_text(OWN.format(name="MaskedL2", tiny=str(TINY)))
    with pytest.raises(
        ValueError, match=r"mine\.py: expected another name for the class MaskedL2: fastmim has a class"
    ):
        load(tmp_path / "mine.py")


@pytest.mark.parametrize("part", ["Path", "Experiment", "Encoder", "ElementLoss", "ConvNet", "load", "OWN", "__all__"])
def test_json_can_name_nothing_else(part):
    with pytest.raises(ValueError, match="is unknown: expected a class of fastmim.recipe"):
        from_json({"part": part}, recipe)


def test_configs_of_older_runs_still_load():
    """Data of every task once had held-out images, which only pre-training uses."""
    for name in ("debug/cifar10_probe_vit.py", "debug/shapes_detect_vit.py", "debug/shapes_segment_vit.py"):
        config = load(ROOT / "configs" / name)
        stored = to_json(config)
        stored["data"] |= {"held_out": 0, "held_out_root": None}
        assert from_json(stored, recipe) == config
        stored["data"]["held_out"] = 3
        with pytest.raises(ValueError, match="data: config part .* has no field 'held_out'"):
            from_json(stored, recipe)


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="part 'Trojan' is unknown"):
        from_json({"part": "Trojan"}, recipe)
    with pytest.raises(ValueError, match="part 'MaskedL3' is unknown: .*; nearest: MaskedL"):
        from_json({"part": "MaskedL3"}, recipe)
    with pytest.raises(ValueError, match="no field .?nonsense"):
        from_json({"part": "Run", "nonsense": 1}, recipe)


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"part": "Config", "encoder": value}])
def test_values_deep_within_each_other_are_refused(wrap):
    value = 1
    for _ in range(800):
        value = wrap(value)
    with pytest.raises(ValueError, match="expected a few values within each other, found hundreds"):
        from_json(value, recipe)


@pytest.mark.parametrize(
    "words", [["--run.keep", "3", "-run.dir", "x"], ["--run.keep", "3", "run.dir=x"], ["run.dir", "x"]]
)
def test_a_setting_with_too_few_hyphens_is_named(words):
    with pytest.raises(ValueError, match=r"run\.dir\S*: expected --section\.field VALUE; write --run\.dir VALUE"):
        override(load(TINY), words, "train.py")


def test_a_second_config_is_refused_as_such():
    with pytest.raises(ValueError, match=r"other\.py: expected one config, got a second"):
        override(load(TINY), ["other.py", "--run.dir", "x"], "train.py")
