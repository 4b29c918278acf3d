"""Tests of the engine on one and two processes: ZeRO stages agree, resume, and skip together."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from fastmim.config import base as config
from fastmim.engine import deepspeed_file
from fastmim.engine.settings import batch_plan, deepspeed_config, resolve_precision
from tests.sweep import covering
from tests.train.launched import ENVIRONMENT, Forks

FP32, BF16, AUTOCAST, FP16 = "fp32", "bf16-master", "autocast", "autocast-fp16"
# (check of tests/train/engine_checks.py, processes, ZeRO stage, precision)
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
    from fastmim.model.decoders import TransformerDecoder
    from fastmim.model.encoders.vit import ViT
    from fastmim.model.losses import MaskedL2
    from fastmim.model.masking import RandomMasking
    from fastmim.model.targets import NormalizedPatches

    return config.Config(
        masking=RandomMasking(),
        encoder=ViT(),
        decoder=TransformerDecoder(),
        target=NormalizedPatches(),
        loss=MaskedL2(),
        data=config.Data(RandomResizedCrop()),
        train=config.Train(**train),
    )


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


AUTO = """{
  "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
  "gradient_clipping": "auto", "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto", "loss_scale_window": 1000},
  "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}}, "zero_allow_untested_optimizer": true,
  "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "allgather_bucket_size": 2e8, "overlap_comm": true,
    "offload_optimizer": {"device": "none", "pin_memory": true}, "offload_param": {"device": "none"},
    "stage3_prefetch_bucket_size": "auto", "stage3_gather_16bit_weights_on_model_save": true}
}"""


def test_auto_in_the_users_file_means_what_the_config_says(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(AUTO)
    plain = deepspeed_config(make_config(zero_stage=2), 2, "fp32")
    settings = deepspeed_config(make_config(zero_stage=2, deepspeed=str(file)), 2, "fp32")
    assert settings.pop("zero_optimization") == plain.pop("zero_optimization") | {
        "allgather_bucket_size": 200_000_000,
        "overlap_comm": True,
        "offload_optimizer": {"device": "none", "pin_memory": True},
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    assert settings == plain


def test_the_users_file_may_repeat_what_the_config_says(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text('{"gradient_clipping": 5, "bf16": {"enabled": true}, "train_batch_size": 4096}')
    clipped = replace(make_config(deepspeed=str(file)), optim=config.Optim(clip=5.0))
    settings = deepspeed_config(clipped, 1, "bf16-master")
    assert settings["gradient_clipping"] == 0.0 and not settings["bf16"]["enabled"]  # fastmim clips and scales itself


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"zero_optimization": {"stage": 2}}', "zero_optimization.stage is 1 from the config .train.zero_stage., 2 t"),
        ('{"train_batch_size": 8, "zero_optimization": 3}', "train_batch_size is 4096 .*; zero_optimization: expected"),
        ('{"optimizer": {"type": "Lamb"}}', 'optimizer.type is "adamw" from the config .optim.algorithm., "Lamb" ther'),
        ('{"optimizer": {"params": {"lr": 1}}}', "optimizer.params.lr: not supported, the settings of optim"),
        ('{"scheduler": {"type": "WarmupLR"}}', "scheduler.type: not supported, optim.schedule"),
        ('{"fp16": {"enabled": true}}', "fp16.enabled is false from the config .train.precision., true there"),
        (
            '{"zero_optimisation": {"stage": 1}}',
            "zero_optimisation: DeepSpeed has no such key; nearest: zero_optimizat",
        ),
        (
            '{"zero_optimization": {"overlap_com": true}}',
            "overlap_com: DeepSpeed has no such key; nearest: overlap_comm",
        ),
        ('{"zzz": 3}', r"zzz: DeepSpeed has no such key\. Leave"),
        ('{"zzz": "auto"}', r"zzz: DeepSpeed has no such key"),
        ('{"autotuning": {"enabled": true}}', "autotuning.enabled: not supported, it ends the run"),
        ('{"flops_profiler": {"output_file": "/x"}}', "flops_profiler.output_file: not supported"),
        ('{"csv_monitor": {"output_path": "/x"}, "elasticity": {}, "nebula": {"a": 1}}', "csv_monitor.*nebula.a: not"),
        ('{"zero_optimization": {"overlap_comm": 1}}', "overlap_comm: expected true or false, got 1"),
        ('{"steps_per_print": 0}', "steps_per_print: expected a whole number of at least 1, got 0"),
        ('{"steps_per_print": true}', "steps_per_print: expected a whole number of at least 1, got true"),
        ('{"steps_per_print": 1e400}', "steps_per_print: expected a whole number of at least 1, got Infinity"),
        ('{"steps_per_print": {"a": 1}}', "steps_per_print: expected a whole number of at least 1, got an object"),
        ('{"communication_data_type": "int8"}', 'communication_data_type: expected one of fp32, fp16, bf16, got "int8'),
        ('{"steps_per_print": NaN}', "expected JSON, found NaN"),
        ('{"steps_per_print": 1, "steps_per_print": 2}', "expected JSON, found the key steps_per_print twice"),
        ('{"\\u001b[31m": 2}', r"\\x1b\[31m: DeepSpeed has no such key"),
        ("[" * 100_000, "values within each other"),
        ('{"a": ' * 5000 + "1" + "}" * 5000, "values within each other|no such key"),
        ('{"steps_per_print": ' + "9" * 10_000 + "}", "thousands of digits"),
        (
            "{" + ", ".join(f'"k{i}": 1' for i in range(20_000)) + "}",
            r"k4: DeepSpeed has no such key; and more\. Leave",
        ),
        ('{"' + "x" * 100_000 + '": 1}', "xxx: DeepSpeed has no such key"),
        ("[1]", "expected a JSON object, got a list"),
        ("{", "expected JSON, found none at line 1"),
        (" " * (1 << 20) + "{}", "expected at most 1048576 bytes"),
    ],
    ids=range(30),
)
def test_what_the_users_file_cannot_say_is_named_in_one_line(tmp_path, text, message):
    file = tmp_path / "settings.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^train.deepspeed=.*settings.json: .*({message})") as error:
        deepspeed_config(make_config(zero_stage=1, deepspeed=str(file)), 1, "fp32")
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_every_key_of_deepspeeds_own_configuration_is_allowed_decided_or_refused():
    from deepspeed.runtime import config as theirs
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    zero = {f"zero_optimization.{f.alias or name}" for name, f in DeepSpeedZeroConfig.model_fields.items()}
    known = {*deepspeed_file.TUNED, *deepspeed_file.DECIDED, *deepspeed_file.REFUSED}
    assert zero <= known
    assert {key for key in deepspeed_file.TUNED if key.startswith("zero_") and key.count(".") == 1} <= zero
    tops = {key.partition(".")[0] for key in known}
    assert set(theirs._REMOVED_TOP_LEVEL_CONFIG_KEYS) <= tops
    read = {theirs.__dict__[name] for name in ("STEPS_PER_PRINT", "DUMP_STATE", "DISABLE_ALLGATHER", "DATA_TYPES")}
    assert read <= tops


def test_settings_refuse(tmp_path):
    with pytest.raises(ValueError, match="offload needs train.zero_stage >= 1"):
        deepspeed_config(make_config(offload=True), 1, "fp32")
    with pytest.raises(ValueError, match="^train.deepspeed: nowhere.json: no such file"):
        deepspeed_config(make_config(deepspeed="nowhere.json"), 1, "fp32")
    os.mkfifo(tmp_path / "pipe")
    for place, found in ((tmp_path, "a folder"), (tmp_path / "pipe", "a named pipe"), ("/dev/zero", "a device")):
        with pytest.raises(ValueError, match=f"^train.deepspeed={place}: expected a file, found {found}"):
            deepspeed_config(make_config(deepspeed=str(place)), 1, "fp32")


def test_clipping_is_done_once():
    clipped = replace(make_config(zero_stage=1), optim=config.Optim(clip=5.0))
    assert deepspeed_config(clipped, 1, "fp32")["gradient_clipping"] == 5.0
    at_stage_0 = replace(make_config(), optim=config.Optim(clip=5.0))
    assert deepspeed_config(at_stage_0, 1, "fp32")["gradient_clipping"] == 0.0


def test_step_seeds_differ():
    from fastmim.engine.engine import step_seed

    places = [
        (seed, step, rank, micro) for seed in (0, 1) for step in range(4) for rank in range(3) for micro in (0, 1)
    ]
    assert len({step_seed(*place) for place in places}) == len(places)
    assert all(0 <= step_seed(*place) < 2**64 for place in places)


@pytest.mark.costly("processes", "an import is observed in a new process")
def test_importing_the_engine_is_light():
    code = "import sys, fastmim.engine.engine; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | ENVIRONMENT).returncode == 0
