"""Messages on an unknown setting of a command line: the setting that was probably meant."""

from __future__ import annotations

from typing import Any

from ..host.command import nearest

_BATCH = "images per update, over all processes; --train.micro_batch is the number that one process holds at once"
_RATE = "the learning rate is blr * train.global_batch / optim.lr_batch"
_ARITHMETIC = "one of fp32, autocast, autocast-fp16, bf16-master"
_LAUNCHER = "the launcher decides: deepspeed --num_gpus N fastmim/train.py CONFIG"
_CHOSEN = "the config file chooses it: configs/README.md lists them"
_SPLIT = "accumulation is train.global_batch / (train.micro_batch x processes)"
ELSEWHERE = {
    **dict.fromkeys(("batch_size", "batch", "bs", "train_batch_size"), ("train.global_batch", _BATCH)),
    **dict.fromkeys(("lr", "learning_rate", "base_lr"), ("optim.blr", _RATE)),
    **dict.fromkeys(("wd",), ("optim.weight_decay", "")),
    **dict.fromkeys(("warmup", "warmup_steps"), ("optim.warmup_epochs", "in epochs")),
    **dict.fromkeys(("grad_clip", "clip_grad", "max_grad_norm", "gradient_clipping"), ("optim.clip", "")),
    **dict.fromkeys(("opt", "optimizer"), ("optim.algorithm", "")),
    **dict.fromkeys(("lr_scheduler", "scheduler", "sched"), ("optim.schedule", "")),
    **dict.fromkeys(("max_epochs", "num_epochs", "num_train_epochs"), ("train.epochs", "")),
    **dict.fromkeys(("max_steps", "iters", "steps", "max_iters"), ("train.epochs", "a run is given in epochs")),
    **dict.fromkeys(("amp", "fp16", "bf16", "mixed_precision", "dtype"), ("train.precision", _ARITHMETIC)),
    **dict.fromkeys(("accum_iter", "gradient_accumulation_steps", "accumulation"), ("train.micro_batch", _SPLIT)),
    **dict.fromkeys(("grad_checkpointing", "gradient_checkpointing"), ("train.activation_checkpointing", "")),
    **dict.fromkeys(
        ("zero", "ds_config", "deepspeed_config"), ("train.deepspeed", "a JSON file; see train.zero_stage")
    ),
    **dict.fromkeys(("data_path", "data_dir", "dataset", "input", "train_dir"), ("data.root", "")),
    **dict.fromkeys(("val", "val_dir", "test_dir", "eval_dir"), ("data.test", "")),
    **dict.fromkeys(("held_out", "held_out_root"), ("data.test", "only pre-training holds images out of training")),
    **dict.fromkeys(
        ("img_size", "image_size", "input_size", "resolution", "crop_size"), ("data.size", "height and width")
    ),
    **dict.fromkeys(("num_workers", "j", "threads"), ("data.workers", "decoding threads per process")),
    **dict.fromkeys(("mask_ratio", "masking_ratio"), ("masking.ratio", "")),
    **dict.fromkeys(("output", "output_dir", "out", "out_dir", "log_dir", "work_dir", "save_dir"), ("run.dir", "")),
    **dict.fromkeys(("pretrained", "finetune", "checkpoint", "ckpt", "load", "weights"), ("run.init", "a run folder")),
    **dict.fromkeys(("log_interval", "print_freq", "logging_steps"), ("run.log_every", "in updates")),
    **dict.fromkeys(("save_freq", "save_interval", "save_steps", "checkpoint_every"), ("run.save_every", "in updates")),
    **dict.fromkeys(("eval_freq", "eval_interval", "eval_steps"), ("run.evaluate_every", "in updates")),
    **dict.fromkeys(("wandb", "report_to", "logger"), ("run.tensorboard", "metrics.jsonl holds all numbers")),
    **dict.fromkeys(("gpus", "num_gpus", "nproc", "nproc_per_node", "world_size", "devices"), ("", _LAUNCHER)),
    **dict.fromkeys(("model", "arch", "backbone", "method", "norm_pix_loss", "config", "cfg"), ("", _CHOSEN)),
}
"""Maps options of other programs to (the setting here with the same meaning or "", a remark or "")."""
CHOICES = {"gpu": "cuda", "amp": "autocast", "bf16": "autocast", "fp16": "autocast-fp16"}
"""Maps values of other programs to the same values here."""


def suggestion(key: str, known: dict[str, tuple[str, Any]]) -> str:
    """Returns the end of a message on an unknown setting: the setting that was probably meant."""
    *section, leaf = key.split(".")
    inside = [name for name in known if name.startswith(f"{key}.")]
    if key == "data":
        return f"a group of settings; the images are --data.root (currently {typed(known['data.root'][1])})"
    if inside:
        return f"a group of settings: --{', --'.join(inside[:5])}{', ...' if len(inside) > 5 else ''}"
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    setting, remark = ELSEWHERE.get(leaf.lower(), ("", ""))
    if not same and (setting in known or (remark and not setting)):
        where = f"; here: --{setting} (currently {typed(known[setting][1])})" if setting else ""
        return f"no such setting{where}{'; ' if remark else ''}{remark}"
    leaves = {name.rpartition(".")[2]: name for name in known if not section or name.startswith(f"{section[0]}.")}
    if not same and (hint := nearest(leaf, leaves) or nearest(key, known)):
        near = hint.removeprefix("; nearest: ")
        same = [leaves.get(near, near)]
    if not same:
        return "no such setting; CONFIG --help lists them"
    near = " or ".join(f"--{name} (currently {typed(known[name][1])})" for name in same[:3])
    return f"no such setting; nearest: {near}"


def typed(value: Any) -> str:
    """Returns a value as a person types it on a command line."""
    if isinstance(value, tuple):
        return " ".join(map(typed, value)) or "nothing"
    return str(value)
