"""Parsing of `--section.field VALUE` arguments, and messages that suggest the right setting."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import traceback
import typing
from typing import Any

from ..host.command import check_words, nearest
from ..host.terminal import shown
from .base import Experiment
from .fields import check_types, choices, expected

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


def override(config: Experiment, args: list[str], prog: str) -> Experiment:
    """Returns the config with the values of `--section.field VALUE` arguments.

    tyro parses the arguments by the types of the dataclasses.

    Args:
        config: the config before the arguments.
        args: the command line after CONFIG.
        prog: name of the program in the help text.

    Raises:
        SystemExit: 0 after `--help`.
        ValueError: an unknown setting or a bad value. The message names the setting, the expected value, and the
            nearest spelling.
    """
    if {"-h", "--help"} & set(args):
        return _parse(config, args, prog)
    known = {name: (kind, value) for name, kind, value in leaf_fields(config)}
    check_words(args)
    for arg in args:
        if arg.startswith("--") and _name(arg) not in known:
            raise ValueError(f"{shown(arg.partition('=')[0])}: {_meant(_name(arg), known)}")
        if not arg.startswith("--") and (name := _name(f"--{arg.lstrip('-')}")) in known:
            raise ValueError(f"{shown(arg)}: expected --section.field VALUE; write --{name} VALUE")
    starts = [i for i, arg in enumerate(args) if arg.startswith("--")]
    if args and starts[:1] != [0] and args[0].endswith(".py"):
        raise ValueError(f"{shown(args[0])}: expected one config, got a second: run a separate command for each config")
    if args and starts[:1] != [0]:
        raise ValueError(f"{shown(args[0])}: expected --section.field VALUE")
    parsed = _try(config, args, prog)
    if not isinstance(parsed, SystemExit):
        check_types(parsed)
        return parsed
    # Settings that need each other may each be refused alone. So the refusal of all settings together decides.
    refusal = _refusal(parsed)
    settings = [args[start:stop] for start, stop in zip(starts, [*starts[1:], len(args)], strict=True)]
    names = [_name(setting[0]) for setting in settings]
    if refusal and any(name in refusal for name in names):
        raise ValueError(refusal)
    for name, setting in zip(names, settings, strict=True):
        alone = _try(config, setting, prog)
        if not isinstance(alone, SystemExit) or _refusal(alone) != refusal:
            continue
        key, equals, first = setting[0].partition("=")
        if refusal:
            raise ValueError(f"{key}: {refusal}")
        kind, value = known[name]
        got = shown(" ".join([first, *setting[1:]] if equals else setting[1:])) or "nothing"
        hint = nearest(CHOICES.get(got, got), choices(kind))
        raise ValueError(f"{key}: expected {_words(kind)} (currently {_typed(value)}), got {got}{hint}")
    raise ValueError(f"{' '.join(args)}: these settings do not fit each other; {refusal}")


def _meant(key: str, known: dict[str, tuple[str, Any]]) -> str:
    """Returns the end of a message on an unknown setting: the setting that was probably meant."""
    *section, leaf = key.split(".")
    inside = [name for name in known if name.startswith(f"{key}.")]
    if key == "data":
        return f"a group of settings; the images are --data.root (currently {_typed(known['data.root'][1])})"
    if inside:
        return f"a group of settings: --{', --'.join(inside[:5])}{', ...' if len(inside) > 5 else ''}"
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    setting, remark = ELSEWHERE.get(leaf.lower(), ("", ""))
    if not same and (setting in known or (remark and not setting)):
        where = f"; here: --{setting} (currently {_typed(known[setting][1])})" if setting else ""
        return f"no such setting{where}{'; ' if remark else ''}{remark}"
    leaves = {name.rpartition(".")[2]: name for name in known if not section or name.startswith(f"{section[0]}.")}
    if not same and (hint := nearest(leaf, leaves) or nearest(key, known)):
        near = hint.removeprefix("; nearest: ")
        same = [leaves.get(near, near)]
    if not same:
        return "no such setting; CONFIG --help lists them"
    near = " or ".join(f"--{name} (currently {_typed(known[name][1])})" for name in same[:3])
    return f"no such setting; nearest: {near}"


def _words(kind: str) -> str:
    """Describes in words the values that a type takes on a command line."""
    if choices(kind):
        return expected(kind)
    plain, _, optional = kind.partition(" | ")
    if plain.startswith("tuple["):
        text = _several(plain.removeprefix("tuple[").removesuffix("]").split(", "))
    else:
        text = {
            "int": "a whole number",
            "float": "a number",
            "str": "one text, in quotes if it has spaces",
            "bool": "True or False",
        }.get(plain, f"a {plain}")
    return f"{text}{' or None' if optional else ''}"


def _several(kinds: list[str]) -> str:
    """Describes in words the values of a tuple of these types, of which the last may be "..."."""
    one = {"int": "whole numbers", "float": "numbers", "str": "texts"}.get(kinds[0])
    if one is None:
        return "pairs of a regular expression and a number"
    count = "" if kinds[-1] == "..." else f"{len(kinds)} "
    return f"{count}{one}, with spaces between them"


def _typed(value: Any) -> str:
    """Returns a value as a person types it on a command line."""
    if isinstance(value, tuple):
        return " ".join(map(_typed, value)) or "nothing"
    return str(value)


def settings_of(args: list[str]) -> dict[str, str]:
    """Returns the settings among `--section.field VALUE` arguments: {name: the words of its value}."""
    found: dict[str, list[str]] = {}
    words: list[str] = []  # of the latest setting
    for arg in args:
        if arg.startswith("--"):
            words = found[_name(arg)] = arg.split("=", 1)[1:]
        else:
            words.append(arg)
    return {name: " ".join(words) for name, words in found.items()}


def _name(arg: str) -> str:
    """Returns the name of the setting in `--section.a-field=VALUE`."""
    return arg.split("=")[0][2:].replace("-", "_")


def _parse(config: Experiment, args: list[str], prog: str) -> Experiment:
    import tyro  # imported here, because the import takes half a second, which resume and export do not need

    kind, plain = type(config), (tyro.conf.FlagConversionOff,)
    return tyro.cli(kind, default=config, args=args, prog=prog, description=kind.__doc__, config=plain)


def _try(config: Experiment, args: list[str], prog: str) -> Experiment | SystemExit:
    """Returns the config with these arguments, or tyro's SystemExit without its boxed message."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return _parse(config, args, prog)
    except SystemExit as error:
        return error


def _refusal(error: BaseException | None) -> str | None:
    """Returns the message of the `__post_init__` whose refusal caused an error, or None."""
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, ValueError) and any(frame.name == "__post_init__" for frame in frames):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def leaf_fields(value: Any, prefix: str = "") -> typing.Iterator[tuple[str, str, Any]]:
    """Yields (dotted name, type, value) of every leaf field."""
    for f in dataclasses.fields(value):
        inner = getattr(value, f.name)
        if dataclasses.is_dataclass(inner):
            yield from leaf_fields(inner, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, str(f.type), inner
