"""Tests that a run takes its network from the run it starts from, says so, and resumes with it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from fastmim.config.config_file import load
from fastmim.config.json_form import to_json
from fastmim.export.export import export_encoder
from fastmim.model.build import build
from fastmim.model.encoders import ResNet
from fastmim.run import checkpoint
from fastmim.run.folder import FolderError
from fastmim.tasks import classify
from fastmim.tasks.inherited_settings import inherit_settings
from fastmim.tasks.initial_encoder import build_encoder
from tests.methods.tiny import ROOT
from tests.train import launched
from tests.train.launched import refusal, result

CONFIGS = ROOT / "configs/debug"
MINE = load(CONFIGS / "tiny_cpu.py")
MINE = replace(
    MINE,
    encoder=replace(MINE.encoder, depth=1, embed_dim=32, num_heads=4, patch_size=8, drop_path=0.0),
    data=replace(MINE.data, size=(24, 24), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2), held_out=0),
)
FEW = "--train.global_batch 6 --train.epochs 4 --data.loader pillow --optim.warmup_epochs 0 --run.log_every 100"


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Makes a pre-training run with random weights, and labelled images."""
    folder = tmp_path_factory.mktemp("mine")
    state = build(MINE).state_dict()
    checkpoint.save(folder / "run/checkpoints", 3, {"model": state}, {"config": to_json(MINE)}, keep=1)
    for part in ("train", "test"):
        for name, level in (("bright", 200), ("dark", 50)):
            (folder / part / name).mkdir(parents=True)
            for i in range(6):
                Image.new("RGB", (30, 30), (level + i,) * 3).save(folder / part / name / f"{i}.png")
    return folder


def words(mine, run, *arguments, config="cifar10_probe_vit", init="run"):
    own = ["--data.root", mine / "train", "--data.test", mine / "test", "--run.init", mine / init, "--run.dir", run]
    return [str(CONFIGS / f"{config}.py"), *FEW.split(), *map(str, own), *arguments]


@pytest.mark.parametrize("config", ["cifar10_probe_vit", "cifar10_finetune_vit"])
def test_a_run_on_one_s_own_weights_takes_their_network_and_says_so(mine, tmp_path, config):
    assert load(CONFIGS / f"{config}.py").encoder.embed_dim != 32
    done = launched.train(words(mine, tmp_path / "run", "--run.stop_after", "2", config=config))
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("inherited")]
    assert f"from {mine / 'run'}: encoder." in line and "encoder.embed_dim 32 (the config has " in line
    assert "data.size 24 24 (the config has 32 32)" in line and "data.mean 0.4 0.5 0.6 (the config has 0.485" in line
    stored = checkpoint.load(tmp_path / "run/checkpoints")
    trained = stored.meta["config"]
    assert (trained["encoder"]["num_heads"], trained["encoder"]["depth"], trained["data"]["size"]) == (4, 1, [24, 24])
    # The fine-tuning's own choice stays.
    assert trained["encoder"]["drop_path"] == load(CONFIGS / f"{config}.py").encoder.drop_path
    weight = "encoder.blocks.0.attn.qkv.weight"
    if config == "cifar10_probe_vit":
        assert torch.equal(stored.state["model"][weight], build(MINE).state_dict()[weight])

    # The same command resumes, even if the initial weights are gone.
    gone = words(mine, tmp_path / "run", config=config, init="gone")
    assert "as this run took at its start" in launched.train(gone).stdout
    assert result(tmp_path / "run")["updates"] == 8
    other = words(mine, tmp_path / "run", "--encoder.depth", "3", config=config)
    assert "encoder.depth was 1, is now 3" in refusal(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--encoder.depth 3", "are of encoder.depth 1; leave --encoder.depth out"),
        ("--encoder.num_heads=2", "are of encoder.num_heads 4; leave --encoder.num_heads out"),
    ],
)
def test_a_setting_that_does_not_fit_the_weights_names_both_values(mine, tmp_path, arguments, message):
    line = refusal(words(mine, tmp_path / "run", *arguments.split()))
    given = arguments.replace("=", " ")
    assert f"{given} (command line), but the weights in run.init={mine / 'run'} {message}" in line


def test_settings_that_the_weights_allow_win(mine, tmp_path):
    arguments = ["--data.size", "32", "32", "--data.mean", "0.5", "0.5", "0.5", "--encoder.embed-dim", "32"]
    done = launched.train(words(mine, tmp_path / "run", *arguments, "--run.stop_after", "1"))
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("inherited")]
    assert "data.size 32 32 as given (there 24 24)" in line and "data.mean 0.5 0.5 0.5 as given (there 0.4" in line


def test_an_encoder_of_another_kind_is_taken_from_an_export_too(mine, tmp_path):
    resnet = replace(MINE, encoder=ResNet("resnet18", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)), data=MINE.data)
    resnet = replace(resnet, decoder=load(CONFIGS / "cifar10_a2mim_resnet.py").decoder)
    resnet = replace(resnet, data=replace(resnet.data, size=(64, 64)))
    export_encoder(resnet, build(resnet).state_dict(), tmp_path / "export")
    config = load(CONFIGS / "cifar10_probe_vit.py")
    config = replace(config, run=replace(config.run, dir=str(tmp_path / "run"), init=str(tmp_path / "export")))
    found = inherit_settings(config, {})
    assert found.config.encoder == resnet.encoder and found.config.data.mean == MINE.data.mean
    assert "encoder ResNet (the config has ViT)" in found.words
    with pytest.raises(ValueError, match="--encoder.depth 3 .* are of the encoder ResNet, which has no depth"):
        inherit_settings(config, {"encoder.depth": "3"})


def test_going_on_with_pre_training_takes_the_decoder_too(mine, tmp_path):
    run = replace(MINE.run, dir=str(tmp_path / "run"), init=str(mine / "run"))
    config = replace(load(CONFIGS / "tiny_cpu.py"), run=run)
    found = inherit_settings(config, {}).config
    assert (found.encoder, found.decoder, found.data.size) == (MINE.encoder, MINE.decoder, (24, 24))
    assert found.masking == config.masking and found.optim == config.optim


STRANGE = {
    "deep": lambda stored: "[" * 100_000,
    "ten million blocks": lambda stored: changed(stored, "spec", stored["fastmim"]["spec"] | {"depth": 10**7}),
    "very wide": lambda stored: changed(stored, "spec", stored["fastmim"]["spec"] | {"embed_dim": 2**30}),
    "large images": lambda stored: changed(stored, "size", [4096, 4096]),
    "no size": lambda stored: changed(stored, "size", "x"),
    "a number as mean": lambda stored: changed(stored, "mean", 3),
    "nothing": lambda stored: "{}",
    "a list": lambda stored: json.dumps({"fastmim": []}),
}


def changed(stored, field, value):
    return json.dumps({"fastmim": stored["fastmim"] | {field: value}})


@pytest.mark.parametrize("name", STRANGE)
def test_nothing_is_taken_from_an_export_with_a_strange_config(name, tmp_path, monkeypatch):
    """The refusal comes at once, without memory for the sizes that the config claims."""
    folder = export_encoder(MINE, build(MINE).state_dict(), tmp_path / "export")
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(STRANGE[name](stored))
    config = load(CONFIGS / "cifar10_probe_vit.py")
    config = replace(config, run=replace(config.run, dir=str(tmp_path / "run"), init=str(folder)))
    monkeypatch.setattr("fastmim.tasks.inherited_settings.initial_encoder.build_encoder", None)
    found = inherit_settings(config, {})
    assert found.config == config and found.words.startswith("nothing from run.init: ")
    assert str(folder) in found.words and found.words.isprintable() and len(found.words) < 900


def test_a_claim_of_a_fine_tuned_run_beyond_its_weights_is_refused(tmp_path):
    config = load(CONFIGS / "cifar10_finetune_vit.py")
    encoder = replace(config.encoder, depth=1, embed_dim=32, num_heads=4)
    weights = build_encoder(encoder, config.data).state_dict()
    state = {"model": {f"encoder.{name}": tensor for name, tensor in weights.items()}}
    claim = to_json(replace(config, encoder=replace(encoder, embed_dim=4096)))
    checkpoint.save(tmp_path / "from/checkpoints", 1, state, {"config": claim}, keep=1)
    config = replace(config, run=replace(config.run, dir=str(tmp_path / "run"), init=str(tmp_path / "from")))
    with pytest.raises(FolderError, match="no valid checkpoint .* MiB, the weights beside it have only 0 MiB"):
        inherit_settings(config, {})


def test_a_run_of_another_kind_is_not_continued(mine, tmp_path):
    run = shutil.copytree(mine / "run", tmp_path / "run")
    said = refusal(words(mine, run))
    assert f"{run} holds a pre-training run, and this is a probing run: choose another run.dir" in said


def test_the_run_folder_of_the_weights_is_no_place_for_the_new_run(mine, tmp_path):
    run = tmp_path / "run"
    images = {"manifest": "0" * 64}  # values that differ from those of the new run
    state = {"model": build(MINE).state_dict()}
    checkpoint.save(run / "checkpoints", 3, state, {"config": to_json(MINE)} | images, keep=1)
    assert f"{run} holds a pre-training run, and this is a probing run" in refusal(words(mine, run))


def test_a_fine_tuned_run_as_start_is_named_with_what_to_give_instead(mine, tmp_path):
    finetune = load(CONFIGS / "cifar10_finetune_vit.py")
    finetune = replace(
        finetune,
        encoder=replace(finetune.encoder, depth=1, embed_dim=32, num_heads=4, patch_size=8, drop_path=0.0),
        data=replace(finetune.data, size=(24, 24)),
        run=replace(finetune.run, init="runs/before"),
    )
    tuned = classify.build_classifier(finetune, 2, torch.zeros(1, dtype=torch.int64))
    checkpoint.save(tmp_path / "tuned/checkpoints", 3, {"model": tuned.state_dict()}, {"config": to_json(finetune)}, 1)
    own = ["--data.held_out", "0", "--data.root", str(mine / "train"), "--run.init", str(tmp_path / "tuned")]
    pretraining = [str(CONFIGS / "tiny_cpu.py"), *FEW.split(), *own, "--run.dir", str(tmp_path / "new")]
    for command in (words(mine, tmp_path / "new", init=tmp_path / "tuned"), pretraining):
        said = refusal(command)
        assert f"run.init: {tmp_path / 'tuned'} is a fine-tuning run" in said
        assert "the pre-training run that it started from (runs/before)" in said


@pytest.mark.parametrize("damage", ["of another task", "no config"])
def test_a_folder_that_does_not_hold_the_run_is_no_traceback(tmp_path, damage):
    """A continued run compares the config, or uses an older checkpoint."""
    meta = {"config": to_json(MINE), "inherited": {"decoder": None, "data.size": None}}
    if damage == "no config":
        checkpoint.save(tmp_path / "checkpoints", 1, {"model": {"x": torch.zeros(1)}}, meta, keep=2)
        meta = {"inherited": {"encoder": None}}
    checkpoint.save(tmp_path / "checkpoints", 2, {"model": {"x": torch.zeros(1)}}, meta, keep=2)
    config = load(CONFIGS / "cifar10_probe_vit.py")
    config = replace(config, run=replace(config.run, dir=str(tmp_path)))
    assert inherit_settings(config, {}).config == config


KINDS = ("finetune", "probe", "detect", "segment")
PAIRS = {path: load(path) for kind in KINDS for path in sorted(ROOT.glob(f"configs/*/{kind}/*.py"))}
PRETRAINING = {config.run.dir: config for config in map(load, ROOT.glob("configs/*/pretrain/*.py"))}


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: "/".join(path.relative_to(ROOT / "configs").parts))
def test_published_recipes_stay_as_they_are(path, tmp_path, monkeypatch):
    """A recipe for the encoder keeps its own image size, windows and positions."""
    config = PAIRS[path]
    source = PRETRAINING[config.run.init]
    monkeypatch.setattr("fastmim.tasks.inherited_settings.build", None)  # the check needs no network
    monkeypatch.setattr("fastmim.tasks.inherited_settings.open_run", lambda run, field: (source, None))
    config = replace(config, run=replace(config.run, init=str(tmp_path), dir=str(tmp_path / "run")))
    found = inherit_settings(config, {})
    assert found.config == config and not found.before


def test_the_number_of_heads_is_that_of_the_weights_although_it_shapes_none(mine):
    config = load(CONFIGS / "cifar10_probe_vit.py")
    config = replace(config, encoder=replace(MINE.encoder, num_heads=2), data=replace(config.data, size=MINE.data.size))
    config = replace(config, run=replace(config.run, dir=str(mine / "none"), init=str(mine / "run")))
    assert inherit_settings(config, {}).config.encoder.num_heads == 4


def test_a_run_folder_can_be_copied_and_goes_on(mine, tmp_path):
    launched.train(words(mine, tmp_path / "run", "--run.stop_after", "2"))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    launched.train(words(mine, tmp_path / "copy"))
    assert result(tmp_path / "copy")["updates"] == 8
