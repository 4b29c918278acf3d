"""Model card of an export, filled from its run."""

from __future__ import annotations

import json
import platform
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastmim

from ..config.base import Config
from ..config.classify import Finetune
from ..config.json_form import to_json
from ..data.manifest import Manifest
from ..host.files import read_bytes
from ..host.json_files import parse_json, read_json
from ..host.terminal import shown
from ..model.encoders.convnet import ConvNet
from ..run.console import duration
from .export_format import Snippet
from .load import EncoderRun
from .timm_models import timm_encoder, timm_model
from .trained_encoder import TrainedEncoder

LONGEST = 200
"""Characters that a card holds of a text from the run."""
MOST_RESULTS = 100
"""Results that a card holds."""
LARGEST = 2**24
"""Largest size of a file of the run, bytes."""


def compose_card(
    trained: TrainedEncoder,
    config: EncoderRun,
    run: Path | None,
    step: int,
    to: str,
    snippet: Snippet,
    notes: Sequence[str],
) -> str:
    """Composes a README.md in Markdown, with the YAML header of the hub if the export is for the hub.

    A run folder may come from a stranger, so its texts stand in code spans and blocks, where nothing is markup. The
    card holds only the last part of a path.

    Args:
        trained: the encoder.
        config: config of the run.
        run: the run folder; None = only the config is known.
        step: updates done; 0 = the card does not say.
        to: name of the export format.
        snippet: code that uses the export.
        notes: sentences about the files of the export.
    """
    unread: list[str] = []
    sections = {
        "Use": _use(trained, snippet, notes),
        "Training": _training(config, run, step, unread),
        "Results": _results(run, unread),
        "Recipe": _recipe(config),
        "Limits": _limits(trained, unread),
        "Licence": "To be filled in by whoever publishes these weights. The licence of the images may restrict it.",
    }
    title = f"# {_title(trained, config)}"
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items() if text)
    return f"{_header(trained) if to == 'hub-folder' else ''}{title}\n\n{body}\n"


def code(text: object) -> str:
    """Returns text from the run as a Markdown code span of one line, in which nothing is markup."""
    line = shown(str(text)).replace("|", "\\x7c")  # a bar ends the cell of a table, even in a code span
    if len(line) > LONGEST:
        line = f"{line[:LONGEST]}... ({len(line)} characters)"
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line or not line.strip() else f"{fence}{line}{fence}"


def _header(trained: TrainedEncoder) -> str:
    library = "fastmim" if timm_model(trained) is None else "timm"
    task = "image-feature-extraction" if trained.head is None else "image-classification"
    tags = "".join(f"- {tag}\n" for tag in dict.fromkeys((task, library, "fastmim", "masked-image-modeling")))
    return f"---\nlibrary_name: {library}\npipeline_tag: {task}\ntags:\n{tags}---\n\n"


def _title(trained: TrainedEncoder, config: EncoderRun) -> str:
    network = f"{type(trained.spec).__name__}, {_millions(trained)} parameters"
    if name := _published_name(trained):
        network = f"{name} ({network})"
    if isinstance(config, Config):
        parts = ", ".join(type(part).__name__ for part in (config.masking, config.decoder, config.target, config.loss))
        return f"{network}, pre-trained by masked image modelling ({parts})"
    kind = "fine-tuned" if isinstance(config, Finetune) else "frozen, with a linear classifier"
    return f"{network}, {kind}, {trained.classes} classes"


def _millions(trained: TrainedEncoder) -> str:
    return f"{sum(p.numel() for p in trained.model.parameters()) / 1e6:.3g} M"


def _published_name(trained: TrainedEncoder) -> str | None:
    """Returns timm's name of the network, or None if the config changes sizes of timm's network."""
    import timm

    if (own := timm_encoder(trained.spec, trained.size)) is None:
        return None
    with torch.device("meta"):
        made, named = (
            timm.create_model(own["architecture"], num_classes=0, in_chans=trained.image.channels, **args)
            for args in (own["model_args"], {})
        )
    made, named = (Counter(tuple(p.shape) for p in model.parameters()) for model in (made, named))
    return own["architecture"] if made == named else None


def _use(trained: TrainedEncoder, snippet: Snippet, notes: Sequence[str]) -> str:
    height, width = trained.size
    facts = [
        f"Images: {trained.image.channels} channels, {height} x {width} pixels. Divide values by 255, subtract the "
        f"mean {_list(trained.mean)}, divide by the standard deviation {_list(trained.std)}.",
        f"Whole images: take {trained.crop.crop_pct:.4g} of the largest central window that fits, and resize it to "
        f"{trained.test_size[0]} x {trained.test_size[1]} ({trained.crop.interpolation}, antialiased).",
        f"Features: {trained.model.num_features} for each {trained.model.stride} x {trained.model.stride} pixels."
        + (f" Logits: {trained.classes}." if trained.head else ""),
        *notes,
    ]
    if (own := timm_encoder(trained.spec, trained.size)) is not None:
        sizes = ", ".join(f"{name}={value!r}" for name, value in own["model_args"].items() if name != "global_pool")
        facts.insert(0, f"Network: timm's {own['architecture']}" + (f" with {sizes}." if sizes else "."))
    return "\n".join(f"* {fact}" for fact in facts) + f"\n\n```python\n{snippet.code}```"


def _training(config: EncoderRun, run: Path | None, step: int, unread: list[str]) -> str:
    train, rows = config.train, list[tuple[str, str]]()
    if isinstance(config, Config):
        parts = (config.masking, config.decoder, config.target, config.loss)
        rows.append(("method", code("; ".join(str(part) for part in parts))))
    rows.append(("encoder", code(config.encoder)))
    if config.run.init:
        rows.append(("initial weights", code(Path(config.run.init).name)))
    data = code(Path(config.data.root).name)
    if run and (run / "manifest.json").is_file():
        try:
            manifest = Manifest.load(str(run / "manifest.json"))
            data += f", {len(manifest)} images, manifest {manifest.hash}"
        except (ValueError, OSError):
            unread.append("manifest.json")
    rows.append(("data", data))
    rows.append(("schedule", f"{train.epochs:g} epochs in batches of {train.global_batch}"))
    if step:
        rows.append(("updates done", str(step)))
    if run:
        facts = _read(run, "facts", unread)
        rows += [
            (name, code(facts[name])) for name in ("devices", "precision", "ZeRO", "global batch") if name in facts
        ]
        rows += _speed(_logged(run, unread), train.global_batch)
    versions = {"fastmim": fastmim.__version__, "torch": torch.__version__, "timm": version("timm")}
    rows.append(("versions at export", ", ".join(f"{k} {v}" for k, v in versions.items())))
    rows.append(("Python", platform.python_version()))
    return _table(rows)


def _speed(logged: Sequence[dict[str, Any]], samples: int) -> list[tuple[str, str]]:
    """Returns the rows on speed, time and memory of a run.

    Args:
        logged: rows of metrics.jsonl.
        samples: images of an update.
    """
    names = ("images_per_s", "updates", "peak_bytes")
    found = [row for row in logged if all(_is_number(row.get(name)) for name in names) and row["images_per_s"] > 0]
    if not found:
        return []
    hours = sum(row["updates"] * samples / row["images_per_s"] for row in found) / 3600
    return [
        ("images/s", f"{statistics.median(row['images_per_s'] for row in found):.1f} (median)"),
        ("time", f"{duration(hours * 3600)} ({hours:.3g} hours)"),
        ("peak memory", f"{max(row['peak_bytes'] for row in found) / 2**30:.2f} GiB a process"),
    ]


def _results(run: Path | None, unread: list[str]) -> str:
    if run is None:
        return ""
    rows: list[tuple[str, str]] = []
    logged = _logged(run, unread)
    if losses := [row["loss"] for row in logged if "loss" in row]:
        rows.append(("training loss, last logged", _number(losses[-1])))
    if tests := [row for row in logged if "held_out" in row]:
        rows.append(("loss on held-out images", _number(tests[-1]["held_out"])))
        if isinstance(trivial := tests[-1].get("trivial"), dict):
            rows += [(f"loss there, predicting {_name(name)}", _number(value)) for name, value in trivial.items()]
    for name, words in (("result", "test"), ("knn", "k-NN")):
        found = _read(run, name, unread)
        rows += [(f"{words}: {_name(k)}", _number(v)) for k, v in found.items() if k != "init" and v is not None]
    return _table(rows[:MOST_RESULTS]) if rows else ""


def _read(run: Path, name: str, unread: list[str]) -> dict[str, Any]:
    """Returns a JSON object of a run, or {} for a missing or damaged file; adds the latter to `unread`."""
    try:
        found = read_json(run / f"{name}.json", LARGEST)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        unread.append(f"{name}.json")
        return {}
    return found


def _logged(run: Path, unread: list[str]) -> list[dict[str, Any]]:
    """Returns the intact rows of metrics.jsonl."""
    try:
        lines = read_bytes(run / "metrics.jsonl", 16 * LARGEST).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        unread.append("metrics.jsonl")
        return []
    rows = []
    for line in lines:
        try:
            rows.append(parse_json(line))
        except ValueError:
            if line.endswith(b"\n"):  # half a line is no damage while the run is writing
                unread.append("metrics.jsonl")
    return [row for row in rows if isinstance(row, dict)]


def _recipe(config: EncoderRun) -> str:
    recipe = to_json(config)
    del recipe["run"]
    for part, field in (("data", "root"), ("data", "test"), ("data", "held_out_root"), ("train", "deepspeed")):
        if recipe[part].get(field):
            recipe[part][field] = Path(recipe[part][field]).name
    return f"```json\n{json.dumps(recipe, indent=2)}\n```"


def _limits(trained: TrainedEncoder, unread: Sequence[str]) -> str:
    limits = [
        "The model was tested on the data above only. Nobody has tested whether it treats people and places alike.",
        "The model has the gaps and the biases of its training images.",
    ]
    if trained.head is None:
        limits.append("Features of masked image modelling need fine-tuning, or a head, for most tasks.")
    if trained.head is None and any(isinstance(m, nn.BatchNorm2d) for m in trained.model.modules()):
        limits.append(
            "Batch norms hold statistics of masked images: measure those of your own images, or train further."
        )
    if not isinstance(trained.spec, ConvNet):
        height, width = trained.size
        limits.append(f"Position embeddings and tables fit images of {height} x {width} pixels.")
    if unread:
        limits.append(
            f"These files of the run are damaged, so this card may lack facts: {', '.join(sorted(set(unread)))}."
        )
    return "\n".join(f"* {limit}" for limit in limits)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _name(key: str) -> str:
    """Returns a name from a run's file: a plain word as text, any other name as a code span."""
    return key.replace("_", " ") if re.fullmatch(r"\w{1,40}", key, re.ASCII) else code(key)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if _is_number(value) else code(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


def _list(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
