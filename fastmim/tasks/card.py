"""The model card of an export, filled from its run. May import L3 and below."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastmim

from .. import checkpoint
from ..config import Config, Experiment, to_json
from ..data.manifest import Manifest
from ..encoders.convnet import ConvNet
from ..metrics import duration, spent, whole_lines
from .layouts import Snippet
from .trained import Trained


def card(
    trained: Trained, config: Experiment, run: Path | None, to: str, snippet: Snippet, notes: Sequence[str]
) -> str:
    """README.md in Markdown, for the hub with its YAML header. Of paths, only the last part is told.

    Args:
        run: the run's folder; None = nothing is known of it but the config.
        notes: what a person should know of these files, a sentence each.
    """
    sections = {
        "Use": _use(trained, snippet, notes),
        "Training": _training(config, run),
        "Results": _results(run),
        "Recipe": _recipe(config),
        "Limits": _limits(trained, config),
        "Licence": "To be filled in by whoever publishes these weights; the licence of the images may restrict it.",
    }
    title = f"# {_title(trained, config)}"
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items() if text)
    return f"{_header(trained) if to == 'hub-folder' else ''}{title}\n\n{body}\n"


def _header(trained: Trained) -> str:
    library = "fastmim" if trained.timm is None else "timm"
    task = "image-feature-extraction" if trained.head is None else "image-classification"
    tags = "".join(f"- {tag}\n" for tag in dict.fromkeys((task, library, "fastmim", "masked-image-modeling")))
    return f"---\nlibrary_name: {library}\npipeline_tag: {task}\ntags:\n{tags}---\n\n"


def _name(trained: Trained) -> str:
    return getattr(trained.spec, "name", type(trained.spec).__name__)


def _title(trained: Trained, config: Experiment) -> str:
    if isinstance(config, Config):
        parts = ", ".join(type(part).__name__ for part in (config.masking, config.decoder, config.target, config.loss))
        return f"{_name(trained)}, pre-trained by masked image modelling ({parts})"
    kind = {"Finetune": "fine-tuned", "Probe": "frozen, with a linear classifier"}[type(config).__name__]
    return f"{_name(trained)}, {kind}, {trained.model.num_classes} classes"


def _use(trained: Trained, snippet: Snippet, notes: Sequence[str]) -> str:
    height, width = trained.size
    facts = [
        f"Images: {len(trained.mean)} channels, {height} x {width} pixels, values / 255 less mean "
        f"{_list(trained.mean)}, over standard deviation {_list(trained.std)}.",
        f"Whole images: the central window, {trained.crop.crop_pct:.4g} of the largest that fits, resized to "
        f"{trained.test_size[0]} x {trained.test_size[1]} ({trained.crop.interpolation}, antialiased).",
        f"Features: {trained.model.num_features} wide, one for each {trained.model.stride} x {trained.model.stride} "
        "pixels" + (f"; {trained.model.num_classes} logits." if trained.head else "."),
        *notes,
    ]
    return "\n".join(f"* {fact}" for fact in facts) + f"\n\n```python\n{snippet.code}```"


def _training(config: Experiment, run: Path | None) -> str:
    train, rows = config.train, []
    if isinstance(config, Config):
        rows.append(("method", "; ".join(str(p) for p in (config.masking, config.decoder, config.target, config.loss))))
    rows.append(("encoder", str(config.encoder)))
    if config.run.init:
        rows.append(("weights at first", f"those of `{Path(config.run.init).name}`"))
    data = f"`{Path(config.data.root).name}`"
    step = None
    if run and (loaded := checkpoint.load(run / "checkpoints")):
        step = loaded.step
    if run and (run / "manifest.json").is_file():
        manifest = Manifest.load(str(run / "manifest.json"))
        data += f", {len(manifest)} images, manifest {manifest.hash}"
    rows.append(("data", data))
    rows.append(("schedule", f"{train.epochs:g} epochs in batches of {train.global_batch}"))
    if step:
        rows.append(("updates done", str(step)))
    if run and (run / "facts.json").is_file():
        facts = json.loads((run / "facts.json").read_text())
        rows += [(name, facts[name]) for name in ("devices", "precision", "ZeRO", "global batch") if name in facts]
    logged = [json.loads(line) for line in whole_lines(run / "metrics.jsonl")] if run else []
    if speeds := [row["images_per_s"] for row in logged if row.get("images_per_s")]:
        hours, peak = spent(run, train.global_batch)
        rows.append(("images/s", f"{statistics.median(speeds):.1f} (median)"))
        rows.append(("time", f"{duration(hours * 3600)} ({hours:.3g} hours)"))
        rows.append(("peak memory", f"{peak / 2**30:.2f} GiB a process"))
    versions = {"fastmim": fastmim.__version__, "torch": torch.__version__, "timm": version("timm")}
    rows.append(("versions at export", ", ".join(f"{k} {v}" for k, v in versions.items())))
    rows.append(("Python", platform.python_version()))
    return _table(rows)


def _results(run: Path | None) -> str:
    if run is None:
        return ""
    rows: list[tuple[str, Any]] = []
    logged = [json.loads(line) for line in whole_lines(run / "metrics.jsonl")]
    if losses := [row["loss"] for row in logged if "loss" in row]:
        rows.append(("training loss, last logged", _number(losses[-1])))
    if tests := [row for row in logged if "held_out" in row]:
        rows.append(("loss on held-out images", _number(tests[-1]["held_out"])))
        rows += [(f"there, predicting {k.replace('_', ' ')}", _number(v)) for k, v in tests[-1]["trivial"].items()]
    for name, words in (("result", "test"), ("knn", "k-NN")):
        if (run / f"{name}.json").is_file():
            found = json.loads((run / f"{name}.json").read_text())
            rows += [(f"{words}: {k}", _number(v)) for k, v in found.items() if k != "init" and v is not None]
    return _table(rows) if rows else ""


def _recipe(config: Experiment) -> str:
    recipe = to_json(config)
    del recipe["run"]
    for field in ("root", "test"):
        if field in recipe["data"]:
            recipe["data"][field] = Path(recipe["data"][field]).name
    return f"```json\n{json.dumps(recipe, indent=2)}\n```"


def _limits(trained: Trained, config: Experiment) -> str:
    limits = [
        "It was tested on what is listed above and on nothing else; whether it treats people and places alike was not.",
        "What the training images lack or overstate, it lacks or overstates.",
    ]
    if trained.head is None:
        limits.append("Features of masked image modelling need fine-tuning, or a head, for most tasks.")
    if trained.head is None and any(isinstance(m, nn.BatchNorm2d) for m in trained.model.modules()):
        limits.append("Its batch norms hold statistics of masked images: take those of your own, or train further.")
    if not isinstance(trained.spec, ConvNet):
        height, width = trained.size
        limits.append(f"Tables of positions are those of images of {height} x {width} pixels.")
    return "\n".join(f"* {limit}" for limit in limits)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = [f"| {name} | {str(value).replace('|', '/')} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *cells])


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _list(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
