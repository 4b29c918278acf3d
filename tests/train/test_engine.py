"""The engine on two processes and one: ZeRO stages agree, resume bit for bit, load each other, skip together."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from fastmim import config
from fastmim.settings import batch_plan, deepspeed_config, resolve_precision
from tests.sweep import covering
from tests.train.launched import ENVIRONMENT, Forks

FP32, BF16, AUTOCAST, FP16 = "fp32", "bf16-master", "autocast", "autocast-fp16"
# Check of tests/train/engine_checks.py, processes, ZeRO stage, precision.
SWEEP = [("resume", 2, stage, precision) for stage in range(4) for precision in (FP32, BF16, AUTOCAST)]
SWEEP += [("resume", 1, stage, FP32) for stage in range(4)] + [("resume", 2, 0, FP16)]
SWEEP += [("offload", 2, stage, precision) for stage in (1, 2, 3) for precision in (FP32, BF16)]
SWEEP += [("batch_norm", 2, stage, precision) for stage in (0, 3) for precision in (FP32, BF16)]
SWEEP += [("batch_norm", 2, *rest) for rest in ((1, BF16), (2, BF16), (0, AUTOCAST), (0, FP16))]
SWEEP += [("batch_norm_not_finite", 2, stage, FP32) for stage in (0, 1)]
SWEEP += [("not_finite", 2, stage, precision) for stage in range(4) for precision in (FP32, BF16)]
SWEEP += [("not_finite", 2, 0, FP16)]


def run(folder, processes, check, *arguments):
    from tests.train import engine_checks

    with Forks(folder / f"output{processes}", processes, engine_checks.run, folder, check, *arguments) as forks:
        forks.check()


@pytest.mark.parametrize("check", ["process", "reseeds", "plain_loop", "refuses_state", "micro_batches"])
def test_two_processes(tmp_path, check):
    run(tmp_path, 2, check)


@pytest.mark.parametrize(("check", "processes", "stage", "precision"), covering(SWEEP))
def test_stage_and_precision(tmp_path, check, processes, stage, precision):
    run(tmp_path, processes, check, stage, precision)


@pytest.mark.parametrize("precision", [FP32, BF16, FP16])
def test_the_host_waits_for_no_device(tmp_path, precision):
    run(tmp_path, 2, "no_reads", precision)


@pytest.mark.parametrize(
    ("precision", "stages", "tolerance"),
    [
        (FP32, (0, 1, 2, 3), 1e-5),
        (BF16, (1, 2, 3), 1e-3),
        pytest.param(BF16, (0, 1, 2, 3), 2e-3, marks=pytest.mark.slow),
        pytest.param(AUTOCAST, (0, 1, 2, 3), 3e-3, marks=pytest.mark.slow),
    ],
)
def test_stages_agree(tmp_path, precision, stages, tolerance):
    run(tmp_path, 2, "stages_agree", precision, stages, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [(FP32, 1e-5), (BF16, 1e-3)])
def test_every_stage_loads_every_other(tmp_path, precision, tolerance):
    run(tmp_path, 2, "change_stage", precision, tolerance)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_one_process_continues_two(tmp_path, stage):
    run(tmp_path, 2, "write_state", stage)
    run(tmp_path, 1, "read_state", stage)


def make_config(**train):
    from fastmim.data.crops import RandomResizedCrop
    from fastmim.decoders import TransformerDecoder
    from fastmim.encoders.vit import ViT
    from fastmim.losses import MaskedL2
    from fastmim.masking import RandomMasking
    from fastmim.targets import NormalizedPatches

    parts = RandomMasking(), ViT(), TransformerDecoder(), NormalizedPatches(), MaskedL2()
    return config.Config(*parts, config.Data(RandomResizedCrop()), config.Optim(), config.Train(**train))


@pytest.mark.parametrize(
    ("global_batch", "micro_batch", "world", "plan"),
    [(4096, None, 8, (512, 1)), (4096, 64, 8, (64, 8)), (12, 1, 3, (1, 4)), (1, None, 1, (1, 1))],
)
def test_batch_plan(global_batch, micro_batch, world, plan):
    assert batch_plan(config.Train(global_batch=global_batch, micro_batch=micro_batch), world) == plan


@pytest.mark.parametrize(
    ("global_batch", "micro_batch", "world", "choices"),
    [
        (10, None, 4, "global_batch=8 or 12"),
        (4096, 60, 8, "global_batch=3840 or 4320, or train.micro_batch=64"),
        (2, None, 4, "use train.global_batch=4"),
    ],
)
def test_batch_plan_refuses(global_batch, micro_batch, world, choices):
    with pytest.raises(ValueError, match=f"global_batch={global_batch} is not .*{choices}"):
        batch_plan(config.Train(global_batch=global_batch, micro_batch=micro_batch), world)


def test_precision():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert resolve_precision(config.Train(), cuda) == "autocast"
    assert resolve_precision(config.Train(), cpu) in ("fp32", "autocast")
    assert resolve_precision(config.Train(precision="bf16-master"), cpu) == "bf16-master"
    assert resolve_precision(config.Train(precision="autocast-fp16"), cuda) == "autocast-fp16"
    with pytest.raises(ValueError, match="zero_stage=0, got 2"):
        resolve_precision(config.Train(precision="autocast-fp16", zero_stage=2), cuda)


def test_settings_merge_the_users_file(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text('{"zero_optimization": {"stage": 2, "overlap_comm": true}, "steps_per_print": 7}')
    settings = deepspeed_config(make_config(zero_stage=2, deepspeed=str(file)), 2, "fp32")
    assert settings["zero_optimization"]["overlap_comm"] and settings["zero_optimization"]["stage"] == 2
    assert settings["steps_per_print"] == 7
    assert settings["train_micro_batch_size_per_gpu"] * settings["gradient_accumulation_steps"] * 2 == 4096


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"zero_optimization": {"stage": 2}}', "zero_optimization.stage is 1 from the config, 2 there"),
        ('{"train_batch_size": 8, "zero_optimization": 3}', "train_batch_size is 4096 .*; zero_optimization is"),
        ('{"optimizer": {"type": "Lamb"}}', "optimizer is decided by the config"),
        ("[1]", "must hold a JSON object, got list"),
        ("{", "not a readable JSON file"),
    ],
)
def test_settings_name_conflicts(tmp_path, text, message):
    file = tmp_path / "settings.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        deepspeed_config(make_config(zero_stage=1, deepspeed=str(file)), 1, "fp32")


def test_settings_refuse():
    with pytest.raises(ValueError, match="offload needs train.zero_stage >= 1"):
        deepspeed_config(make_config(offload=True), 1, "fp32")
    with pytest.raises(ValueError, match="nowhere.json is not a readable"):
        deepspeed_config(make_config(deepspeed="nowhere.json"), 1, "fp32")


def test_clipping_is_done_once():
    clipped = replace(make_config(zero_stage=1), optim=config.Optim(clip=5.0))
    assert deepspeed_config(clipped, 1, "fp32")["gradient_clipping"] == 5.0
    at_stage_0 = replace(make_config(), optim=config.Optim(clip=5.0))
    assert deepspeed_config(at_stage_0, 1, "fp32")["gradient_clipping"] == 0.0


def test_step_seeds_differ():
    from fastmim.engine import step_seed

    places = [
        (seed, step, rank, micro) for seed in (0, 1) for step in range(4) for rank in range(3) for micro in (0, 1)
    ]
    assert len({step_seed(*place) for place in places}) == len(places)
    assert all(0 <= step_seed(*place) < 2**64 for place in places)


@pytest.mark.costly("processes", "what an import loads is seen in a process of its own")
def test_importing_the_engine_is_light():
    code = "import sys, fastmim.engine; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | ENVIRONMENT).returncode == 0
