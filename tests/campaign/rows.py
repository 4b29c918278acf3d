"""The row campaign: trains every config for three updates on a CPU, resumes it bit for bit, and exports it.

Run `python -m tests.campaign.rows` from the repository root; `--only PATTERN` takes the configs whose path contains the
pattern. Rows that are recorded and not stale are left out, so the same command continues. Each config trains as in a
real run, on two demo images an update, in fp32 and without warm-up. Models above LARGE parameters are made shallower,
and the row says how.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import record
from fastmim.config.base import Config
from fastmim.config.config_file import load
from fastmim.config.json_form import to_json
from fastmim.data.demo import write_demo_images
from fastmim.engine.process import Process, init_distributed
from fastmim.export.export import export_encoder
from fastmim.export.load import from_export
from fastmim.export.timm_models import timm_encoder, timm_tokens
from fastmim.parts import Encoder
from fastmim.run import checkpoint
from fastmim.tasks.pretrain import Pretraining, build
from tests.campaign.ledger import Ledger, digest
from tests.methods.tiny import ROOT, ROWS, tiny

UPDATES, SAVED, BATCH = 3, 2, 2
LARGE = 150e6
ROWS_PER_PROCESS = 4  # what a process keeps of its rows is given back with it
COVERED = (
    *("fastmim/tokens.py", "fastmim/samples.py", "fastmim/parts.py", "fastmim/model", "fastmim/data"),
    *("fastmim/engine", "fastmim/run/checkpoint.py", "fastmim/tasks/pretrain.py", "fastmim/export"),
)
"""Files that every row depends on, besides its config and encoder; a change makes earlier rows stale."""


def covered(path: Path) -> dict[str, str]:
    """Returns digests of everything that a row depends on: files by name, and the loaded config."""
    config = load(path)
    files = {name: digest([name]) for name in (*COVERED, *encoder_files(config.encoder))}
    return files | {"the config": hashlib.sha256(json.dumps(to_json(config)).encode()).hexdigest()}


def encoder_files(encoder: Encoder) -> list[str]:
    """Returns the file of an encoder, and the files of its package that it imports, directly or not."""
    package = type(encoder).__module__.rpartition(".")[0]
    found, waiting = set(), {type(encoder).__module__}
    while waiting:
        found.add(name := waiting.pop())
        taken = {getattr(value, "__module__", "") for value in vars(sys.modules[name]).values()}
        waiting |= {name for name in taken if name.startswith(f"{package}.")} - found
    return sorted(Path(sys.modules[name].__file__).relative_to(ROOT).as_posix() for name in found)


def stale(row: dict, path: Path) -> list[str]:
    """Returns the names of what a recorded row depends on and that has changed since."""
    return [name for name, value in covered(path).items() if row["covered"].get(name) != value]


def newest() -> dict[str, dict]:
    """Returns the last recorded row of each config."""
    return {row["case"]: row for row in record.read("rows")}


def shallower(config: Config) -> tuple[Config, str]:
    """Returns the config, with fewer blocks if its model is too large, and the change in words."""
    with torch.device("meta"):
        mim = build(config)
    if sum(p.numel() for p in mim.parameters()) <= LARGE:
        return config, ""
    fields = {"depth": 4} if hasattr(config.encoder, "depth") else {"depths": (2, 2, 2, 2)}
    words = " ".join(f"{name} {value}" for name, value in fields.items())
    return replace(config, encoder=replace(config.encoder, **fields)), words


def prepared(config: Config, images: Path, folder: Path, how: dict[str, Any]) -> Config:
    """Returns the config as the campaign trains it: three updates over six images, each with an effect."""
    fixed = {"epochs": 1, "global_batch": BATCH, "micro_batch": None, "precision": "fp32", "device": "cpu"}
    return replace(
        config,
        data=replace(config.data, root=str(images), held_out=0, repeats=1, loader="pillow", workers=1, prefetch=1),
        optim=replace(config.optim, warmup_epochs=0),
        train=replace(config.train, **fixed | how),
        run=replace(config.run, dir=str(folder), evaluate_every=0),
    )


def digests(state: dict[str, dict[str, Tensor]]) -> dict[str, str]:
    """Returns the SHA-256 of every tensor of a training state."""
    return {
        f"{kind}/{name}": hashlib.sha256(t.contiguous().view(-1).numpy()).hexdigest()
        for kind, part in state.items()
        for name, t in part.items()
    }


def train(config: Config, process: Process, first: int) -> tuple[list[float], dict[str, dict[str, Tensor]]]:
    """Trains from update `first` to the last, from a checkpoint if `first` is not 0; saves before the last update.

    Returns:
        The losses, and the state at the end.
    """
    task, folder = Pretraining(config, process), Path(config.run.dir) / "checkpoints"
    assert task.total == UPDATES and task.resume(folder) == first
    losses = []
    for step in range(first, UPDATES):
        if step == SAVED > first:
            checkpoint.save(folder, step, task.engine.state_dict(), task.meta(), keep=1)
        result = task.train_step(step, task.batches(step, step + 1))
        assert not result.skipped and result.grad_norm > 0, (step, result)
        losses.append(result.loss.item())
    state = task.engine.state_dict()
    task.close()
    return losses, state


def attempt(path: Path, images: Path, small: bool = False, **how: Any) -> dict:
    """Trains, resumes and exports one config, and returns its row.

    Args:
        path: the config's file.
        images: folder of images.
        small: make the model tiny.
        **how: fields of `train` to replace.

    Raises:
        AssertionError: the resumed run or the exported encoder differs, or a parameter has no gradient.
        ValueError, RuntimeError: the config cannot be built, trained or exported.
    """
    torch.set_num_threads(1)
    started = time.perf_counter()
    config = tiny(load(path)) if small else load(path)
    config, changed = (config, "") if small else shallower(config)
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}-", dir=images.parent) as folder:
        config = prepared(config, images, Path(folder), how)
        process = init_distributed("cpu")
        losses, state = train(config, process, 0)
        expected, model = digests(state), state["model"]
        still = [name for name, moment in state["exp_avg_sq"].items() if not moment.any()]
        trained = sum(moment.numel() for moment in state["exp_avg_sq"].values())
        del state
        gc.collect()
        again, state = train(config, process, SAVED)
        found = digests(state)
        del state
        gc.collect()
        different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        assert not different and again == losses[SAVED:], f"the resumed run differs: {different[:3]} {again} {losses}"
        assert not still, f"no gradient has reached {still}"
        export(config, model, Path(folder) / "encoder")
    return {
        "case": path.relative_to(ROOT).as_posix(),
        "parameters_millions": round(trained / 1e6, 2),
        "reduced": changed,
        "losses": [round(loss, 6) for loss in losses],
        "resumed": "bit for bit",
        "export": "timm, bit-equal" if timm_encoder(config.encoder, config.data.size) else "own format, bit-equal",
        "seconds": round(time.perf_counter() - started, 1),
    }


@torch.no_grad()
def export(config: Config, model: dict[str, Tensor], folder: Path) -> None:
    """Exports an encoder, loads it as a user does, and compares its features with those of the trained encoder."""
    import timm

    export_encoder(config, model, folder)
    mim = build(config)
    mim.load_state_dict(model)
    shape = (1, len(config.data.mean), *config.data.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    if timm_encoder(config.encoder, config.data.size):
        copy = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        features = timm_tokens(config.encoder, copy, images)
    else:
        features = from_export(folder).model.tokens(images)
    assert torch.equal(features, mim.eval().encoder.features(images)), "the exported encoder is another"


def main() -> int:
    """Runs the campaign, prints and records the configs that hold; returns 0 if all hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="part of the config's path")
    parser.add_argument("--dir", type=Path, default=Path("runs/rows"), help="where the runs go; removed as they end")
    ledger = Ledger(parser, "rows")
    arguments = ledger.arguments
    known = newest()
    paths = [path for path in ROWS if arguments.only in path.relative_to(ROOT).as_posix()]
    if not paths:
        parser.error(f"no row of configs/*/pretrain contains {arguments.only!r}")
    todo = [p for p in paths if (row := known.get(p.relative_to(ROOT).as_posix())) is None or stale(row, p)]
    print(f"{len(paths)} rows, {len(paths) - len(todo)} of them recorded and not stale", flush=True)
    shutil.rmtree(arguments.dir, ignore_errors=True)
    images = arguments.dir.resolve() / "images"
    write_demo_images(str(images), UPDATES * BATCH)
    failed, spawn = [], multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=ROWS_PER_PROCESS) as pool:
        for path in todo:
            future = pool.submit(attempt, path, images)
            if (error := future.exception()) is not None:
                failed.append(path)
                print(f"{path.relative_to(ROOT)}: {type(error).__name__}: {error}", flush=True)
                continue
            row = future.result()
            print(*row.values(), sep="  ", flush=True)
            ledger.record(row | {"covered": covered(path)})
    shutil.rmtree(arguments.dir)
    print(f"{len(todo) - len(failed)} of {len(todo)} hold")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
