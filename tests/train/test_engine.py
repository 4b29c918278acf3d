"""The engine on two processes and one: ZeRO stages agree, resume bit for bit, load each other, skip together."""

import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastmim import config
from fastmim.data.crops import RandomResizedCrop
from fastmim.decoders import TransformerDecoder
from fastmim.encoders.vit import ViT
from fastmim.engine import step_seed
from fastmim.losses import MaskedL2
from fastmim.masking import RandomMasking
from fastmim.settings import batch_plan, deepspeed_config, resolve_precision
from fastmim.targets import NormalizedPatches

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# "check:argument:..." runs engine_checks.check_check(process, argument, ...)
CORE = [
    "process",
    "reseeds",
    "plain_loop",
    "refuses_state",
    "micro_batches",
    "no_reads:fp32",
    "no_reads:autocast-fp16",
    "no_reads:bf16-master",
    "stages_agree:fp32:0123:1e-5",
    "stages_agree:bf16-master:123:1e-3",
    "resume:0:fp32",
    "resume:1:fp32",
    "resume:2:fp32",
    "resume:3:fp32",
    "resume:0:bf16-master",
    "resume:2:bf16-master",
    "batch_norm:0:fp32",
    "batch_norm:0:bf16-master",
    "batch_norm:2:bf16-master",
    "batch_norm_not_finite:0:fp32",
    "batch_norm_not_finite:1:fp32",
    "not_finite:0:fp32",
    "not_finite:1:fp32",
    "not_finite:2:fp32",
    "not_finite:3:fp32",
    "write_state:0",
    "write_state:2",
    "write_state:3",
]
LONG = [
    "stages_agree:autocast:0123:3e-3",
    "stages_agree:bf16-master:0123:2e-3",
    "resume:1:bf16-master",
    "resume:3:bf16-master",
    "resume:0:autocast-fp16",
    "resume:0:autocast",
    "resume:1:autocast",
    "resume:2:autocast",
    "resume:3:autocast",
    "batch_norm:0:autocast-fp16",
    "batch_norm:0:autocast",
    "batch_norm:1:bf16-master",
    "batch_norm:3:bf16-master",
    "batch_norm:3:fp32",
    "offload:1:fp32",
    "offload:2:fp32",
    "offload:3:fp32",
    "offload:1:bf16-master",
    "offload:2:bf16-master",
    "offload:3:bf16-master",
    "not_finite:0:autocast-fp16",
    "not_finite:0:bf16-master",
    "not_finite:1:bf16-master",
    "not_finite:2:bf16-master",
    "not_finite:3:bf16-master",
    "change_stage:fp32:1e-5",
    "change_stage:bf16-master:1e-3",
]
ALONE = [
    "read_state:0",
    "read_state:2",
    "read_state:3",
    "resume:0:fp32",
    "resume:1:fp32",
]


@functools.cache
def folder():
    return tempfile.TemporaryDirectory(prefix="fastmim-engine-")


@functools.cache
def outcomes(world, checks):
    """Error (None = passed) of each check on each rank, all run in one start of `world` processes."""
    path = folder().name
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    if world > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in range(world):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {"OMP_NUM_THREADS": "1"}
        with open(f"{path}/output{rank}of{world}", "w") as output:
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(HERE / "engine_checks.py"), path, *checks],
                    env=environment | own,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        for process in processes:
            process.wait(timeout=900)
    finally:
        for process in processes:
            process.kill()
    results = []
    for rank in range(world):
        lines = Path(f"{path}/rank{rank}of{world}.jsonl").read_text().splitlines()
        results.append({line["check"]: line["error"] for line in map(json.loads, lines)})
    return results


def report(world, checks, check):
    for rank, result in enumerate(outcomes(world, tuple(checks))):
        output = Path(folder().name, f"output{rank}of{world}").read_text()[-2000:]
        assert check in result, f"rank {rank} stopped before this check; its output ends:\n{output}"
        assert result[check] is None, f"rank {rank}:\n{result[check]}"


@pytest.mark.parametrize("check", CORE)
def test_two_processes(check):
    report(2, CORE, check)


@pytest.mark.slow
@pytest.mark.parametrize("check", LONG)
def test_two_processes_long(check):
    report(2, LONG, check)


@pytest.mark.parametrize("check", ALONE)
def test_one_process_without_a_launcher(check):
    outcomes(2, tuple(CORE))  # writes the states that are read
    report(1, ALONE, check)


def make_config(**train):
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
    places = [
        (seed, step, rank, micro) for seed in (0, 1) for step in range(4) for rank in range(3) for micro in (0, 1)
    ]
    assert len({step_seed(*place) for place in places}) == len(places)
    assert all(0 <= step_seed(*place) < 2**64 for place in places)


def test_importing_the_engine_is_light():
    code = "import sys, fastmim.engine; sys.exit('deepspeed' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
