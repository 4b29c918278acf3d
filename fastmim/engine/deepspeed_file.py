"""The user's file of DeepSpeed settings (`train.deepspeed`), and the keys that it may hold.

Keys are written with dots: `zero_optimization.stage`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..host.command import explain, nearest
from ..host.json_files import read_json
from ..host.terminal import shown

_LIMIT = 1 << 20  # bytes
_NAMED = 5  # problems in one message

_ZERO = "zero_optimization."
TUNED: dict[str, type | tuple[str, ...]] = {
    "communication_data_type": ("fp32", "fp16", "bf16"),
    "steps_per_print": int,
    "wall_clock_breakdown": bool,
    "memory_breakdown": bool,
    "timers.throughput.enabled": bool,
    "timers.throughput.synchronized": bool,
    f"{_ZERO}contiguous_gradients": bool,
    f"{_ZERO}reduce_scatter": bool,
    f"{_ZERO}reduce_bucket_size": int,
    f"{_ZERO}use_multi_rank_bucket_allreduce": bool,
    f"{_ZERO}allgather_partitions": bool,
    f"{_ZERO}allgather_bucket_size": int,
    f"{_ZERO}overlap_comm": bool,
    f"{_ZERO}sub_group_size": int,
    f"{_ZERO}round_robin_gradients": bool,
    f"{_ZERO}ignore_unused_parameters": bool,
    f"{_ZERO}memory_efficient_linear": bool,
    f"{_ZERO}enable_sanity_checks": bool,
    f"{_ZERO}offload_optimizer.pin_memory": bool,
    f"{_ZERO}stage3_prefetch_bucket_size": int,
    f"{_ZERO}stage3_param_persistence_threshold": int,
    f"{_ZERO}stage3_model_persistence_threshold": int,
    f"{_ZERO}stage3_max_live_parameters": int,
    f"{_ZERO}stage3_max_reuse_distance": int,
    f"{_ZERO}stage3_module_granularity_threshold": int,
    f"{_ZERO}stage3_use_all_reduce_for_fetch_params": bool,
    f"{_ZERO}stage3_gather_16bit_weights_on_model_save": bool,
}
"""Keys that the file may set, and their types.
These keys change only speed, memory or DeepSpeed's output."""
_POSITIVE = ("steps_per_print", f"{_ZERO}reduce_bucket_size", f"{_ZERO}sub_group_size")

DECIDED = {
    "train_batch_size": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.global_batch and train.micro_batch",
    "gradient_clipping": "optim.clip",
    "bf16.enabled": "train.precision",
    "bf16.check_grad_overflow": "train.max_skipped",
    "fp16.enabled": "train.precision",
    "torch_autocast.enabled": "train.precision",
    "data_types.grad_accum_dtype": "train.precision",
    "optimizer.type": "optim.algorithm",
    "zero_allow_untested_optimizer": "optim.algorithm",
    "zero_force_ds_cpu_optimizer": "optim.algorithm",
    f"{_ZERO}stage": "train.zero_stage",
    f"{_ZERO}offload_optimizer.device": "train.offload",
    f"{_ZERO}offload_param.device": "parameters stay on the device",
}
"""Keys that the config decides, each with the deciding setting."""

_ELSEWHERE = "fastmim does it itself"
_REMOVED = "DeepSpeed has removed it"
_LAYOUT = "checkpoints of fastmim do not know this layout"
REFUSED = {
    "optimizer.params": "the settings of optim decide it",
    "scheduler": "optim.schedule and the other settings of optim decide it",
    "fp16": "train.precision decides the arithmetic, and fastmim scales the loss itself",
    "torch_autocast": "train.precision decides the arithmetic",
    "bf16": "train.precision decides the arithmetic; only enabled may stand here",
    "bfloat16": "write bf16",
    "amp": _REMOVED,
    "data_types": "train.precision decides the arithmetic",
    "activation_checkpointing": "use train.activation_checkpointing",
    "autotuning": "it ends the run after a few updates; use `python -m bench memory` and `python -m bench hours`",
    "flops_profiler": "use `python -m bench flops`",
    "tensorboard": "use run.tensorboard",
    "csv_monitor": "metrics.jsonl in the run folder holds all numbers",
    "wandb": "metrics.jsonl in the run folder holds all numbers",
    "comet": "metrics.jsonl in the run folder holds all numbers",
    "comms_logger": "nothing here prints its summary",
    "dump_state": "config.json in the run folder holds the settings",
    "log_level": _ELSEWHERE,
    "checkpoint": "fastmim writes checkpoints itself: run.save_every, run.keep",
    "checkpoint_writer": "fastmim writes checkpoints itself: run.save_every, run.keep",
    "datastates_ckpt": "fastmim writes checkpoints itself: run.save_every, run.keep",
    "data_efficiency": "fastmim loads the data itself: the settings of data",
    "dataloader_drop_last": "fastmim loads the data itself: the settings of data",
    "seq_parallel_communication_data_type": "there are no sequences",
    "sequence_parallel_size": "there are no sequences",
    "gradient_allreduce_op": "gradients are averaged",
    "prescale_gradients": "gradients are averaged, which ZeRO scales itself",
    "gradient_predivide_factor": "gradients are averaged, which ZeRO scales itself",
    "managed_gradient_accumulation": _ELSEWHERE,
    "disable_allgather": _ELSEWHERE,
    "disable_python_gc": _ELSEWHERE,
    "vocabulary_size": "there is no vocabulary",
    "aio": "nothing is offloaded to disks",
    "compile": "it would change the results",
    "hybrid_engine": "it is for generating text",
    "weight_quantization": "it would change the results",
    "pipeline": "there is no pipeline",
    "tensor_parallel": "there is no tensor parallelism",
    "expert_parallel": "there are no experts",
    "use_data_before_expert_parallelism": "there are no experts",
    "elasticity": _REMOVED,
    "nebula": _REMOVED,
    "compression_training": _REMOVED,
    "quantize_training": _REMOVED,
    "sparse_gradients": _REMOVED,
    "sparse_attention": _REMOVED,
    "eigenvalue": _REMOVED,
    "graph_harvesting": _REMOVED,
    "curriculum_learning": _REMOVED,
    "progressive_layer_drop": _REMOVED,
    f"{_ZERO}cpu_offload": "use train.offload",
    f"{_ZERO}cpu_offload_param": "parameters stay on the device",
    f"{_ZERO}cpu_offload_use_pin_memory": "write offload_optimizer.pin_memory",
    f"{_ZERO}offload_param": "parameters stay on the device",
    f"{_ZERO}offload_optimizer": "train.offload keeps the optimizer state in host memory; only pin_memory is free",
    f"{_ZERO}zenflow": "it would change the results",
    f"{_ZERO}compute_grad_norm": "the norm is logged",
    f"{_ZERO}load_from_fp32_weights": "fastmim reads checkpoints itself",
    f"{_ZERO}elastic_checkpoint": "fastmim reads checkpoints itself",
    f"{_ZERO}pipeline_loading_checkpoint": "fastmim reads checkpoints itself",
    f"{_ZERO}legacy_stage1": _LAYOUT,
    f"{_ZERO}parameter_alignment": _LAYOUT,
    f"{_ZERO}zero_hpz_partition_size": _LAYOUT,
    f"{_ZERO}mics_shard_size": _REMOVED,
    f"{_ZERO}mics_hierarchical_params_gather": _REMOVED,
    f"{_ZERO}zeropp_loco_param": _REMOVED,
    f"{_ZERO}zero_quantized_weights": "it would change the results",
    f"{_ZERO}zero_quantized_nontrainable_weights": "it would change the results",
    f"{_ZERO}zero_quantized_gradients": "it would change the results",
    f"{_ZERO}stage3_gather_fp16_weights_on_model_save": "write stage3_gather_16bit_weights_on_model_save",
    f"{_ZERO}stage3_allgather_sequential": _ELSEWHERE,
    f"{_ZERO}override_module_apply": _ELSEWHERE,
    f"{_ZERO}log_trace_cache_warnings": _ELSEWHERE,
    f"{_ZERO}leaf_module": _ELSEWHERE,
    f"{_ZERO}save_muon_momentum_buffer_in_memory": "there is no such optimizer",
}
"""Keys and sections of DeepSpeed, past or present, that are refused, each with the reason."""

_KNOWN = {*TUNED, *DECIDED, *REFUSED}
_SECTIONS = {key[:at] for key in _KNOWN for at, c in enumerate(key) if c == "."} | {"optimizer.params", *REFUSED}


def read(file: str, decided: dict[str, Any]) -> dict[str, Any]:
    """Reads a DeepSpeed file; returns the values of `TUNED` keys, by dotted name.

    The value "auto", which Hugging Face uses, means the config's value. A section that is switched off means the same.

    Args:
        file: path of the file, `train.deepspeed`.
        decided: the config's values of the keys of `DECIDED`.

    Raises:
        ValueError: the file is no JSON object, or holds keys or values that are not allowed. The message names the
            keys.
    """
    where = f"train.deepspeed={shown(file)}"
    try:
        content = read_json(file, _LIMIT)
    except OSError as error:
        raise ValueError(f"train.deepspeed: {explain(error)}") from error
    except ValueError as error:
        raise ValueError(f"train.deepspeed={error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a JSON object, got {_said(content)}")
    for section in ("fp16", "torch_autocast", "amp"):
        off = isinstance(content.get(section), dict) and content[section].get("enabled") in (False, "auto")
        if off and (section == "amp" or not decided[f"{section}.enabled"]):
            del content[section]
    tuned, problems = {}, []
    for key, value in _leaves(content):
        if problem := _problem(key, value, decided):
            problems.append(problem)
        elif key in TUNED and value != "auto":
            tuned[key] = int(value) if TUNED[key] is int else value
        if len(problems) > _NAMED:
            problems[-1] = "and more"
            break
    if problems:
        raise ValueError(f"{where}: {'; '.join(problems)}. Leave these keys out, or change the config or the file")
    return tuned


def _leaves(section: dict, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the keys of all known sections, with dots, and their values."""
    for key, value in section.items():
        key = f"{path}{key}"
        if isinstance(value, dict) and key in _SECTIONS:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _problem(key: str, value: Any, decided: dict[str, Any]) -> str | None:
    """Returns the problem with a key and its value, or None."""
    refused = [name for name in REFUSED if name == key or key.startswith(f"{name}.")]
    if key not in _KNOWN and not refused:
        if key in _SECTIONS:
            return f"{key}: expected an object, got {_said(value)}"
        section, dot, name = key[:100].rpartition(".")
        siblings = [
            known.removeprefix(section + dot).partition(".")[0]
            for known in _KNOWN | _SECTIONS
            if known.startswith(section + dot)
        ]
        return f"{shown(key[:100])}: DeepSpeed has no such key{nearest(name, sorted(set(siblings)))}"
    if value == "auto":
        return None
    if key in DECIDED:
        same = value.lower() == decided[key] if isinstance(value, str) else value == decided[key]
        boolean = isinstance(value, bool) == isinstance(decided[key], bool)
        said = f"{key} is {json.dumps(decided[key])} from the config ({DECIDED[key]}), {_said(value)} there"
        return None if same and boolean else said
    if key in TUNED:
        return _mistyped(key, value, TUNED[key])
    return f"{shown(key[:100])}: not supported, {REFUSED[key if key in refused else refused[0]]}"


def _mistyped(key: str, value: Any, kind: type | tuple[str, ...]) -> str | None:
    """Returns the problem with the type of a value, or None."""
    if isinstance(kind, tuple):
        return None if value in kind else f"{key}: expected one of {', '.join(kind)}, got {_said(value)}"
    if kind is bool:
        return None if isinstance(value, bool) else f"{key}: expected true or false, got {_said(value)}"
    least = int(key in _POSITIVE)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if whole and least <= value < 2**63:
        return None
    return f"{key}: expected a whole number of at least {least}, got {_said(value)}"


def _said(value: Any) -> str:
    """Returns a value in a few characters, for messages."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False)
    return shown(text if len(text) <= 40 else f"{text[:37]}...")
