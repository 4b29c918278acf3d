"""Checks that short runs beat trivial predictors and learn features that separate classes.

    deepspeed fastmim/train.py configs/debug/photographs_mae.py --data.root PHOTOGRAPHS --run.dir runs/photographs_mae
    deepspeed fastmim/train.py configs/debug/cifar10_mae.py --data.root CIFAR/train --run.dir runs/cifar10_mae
    python -m bench learns runs/photographs_* runs/cifar10_* --labelled CIFAR --plot bench/results/learns.png --record

The last held-out loss of each run is compared with the losses of trivial predictors on the same images. --labelled
takes a folder that holds train/CLASS/ and test/CLASS/ images. With this option, the k-NN accuracy of runs/cifar10_* is
compared with the accuracy of the same network at initialisation. Two accuracies are measured: with the features of the
last block, and with the features of all blocks side by side. (DINO's linear probe of ViT-S takes the last four blocks,
eval_linear.py `n_last_blocks`.) The accuracy on all blocks decides, because in methods without a decoder (SimMIM,
A2MIM) the last blocks specialise in predicting pixels. The exit status is 1 if a run has no better accuracy, or,
without an accuracy, no better loss.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.options import command_parser
from bench.record import Record, record
from fastmim import recipe
from fastmim.analysis.nearest_neighbours import knn_accuracy
from fastmim.cli import visualize
from fastmim.config.base import Config
from fastmim.config.json_form import from_json
from fastmim.data.crops import CenterCrop
from fastmim.data.loader import open_loader
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import Quarantine
from fastmim.model.build import build
from fastmim.model.mim import MIM
from fastmim.run import checkpoint

BANK, QUERIES = 10_000, 10_000
BATCH = 100


def metrics(run: Path) -> list[dict]:
    """Returns the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def labelled(folder: Path, config: Config, count: int) -> tuple[Tensor, Tensor]:
    """Returns labelled images of a folder, evenly chosen and centre-cropped.

    Args:
        folder: holds CLASS/ folders of images.
        config: config of the run, with the size and colours of images.
        count: largest number of images.

    Returns:
        The images, (N, H, W, C) uint8, and their class numbers, (N,) int64.
    """
    manifest = Manifest.scan(str(folder))
    data = replace(config.data, crop=CenterCrop(1.0, interpolation=config.data.crop.interpolation), flip=0.0)
    ids = torch.arange(len(manifest))[:: max(1, len(manifest) // count)][:count]
    quarantine = Quarantine(manifest, 0, Path(config.run.dir) / "bad_labelled_files.jsonl")
    with open_loader(manifest, data, 0, quarantine, ids, torch.device("cpu")) as loader:
        images = torch.cat([batch for batch, _ in loader.batches(ids.split(BATCH))])
    names = [Path(manifest.path(i)).relative_to(folder.resolve()).parts[0] for i in ids.tolist()]
    classes = sorted(set(names))
    return images, torch.tensor([classes.index(name) for name in names])


def accuracies(config: Config, weights: dict[str, Tensor], folder: Path) -> dict[str, float]:
    """Returns the k-NN accuracies of the trained encoder and of the encoder at initialisation.

    Args:
        config: config of the run.
        weights: state of the trained model.
        folder: holds train/CLASS/ and test/CLASS/ images.
    """
    untrained, trained = build(config), build(config)
    trained.load_state_dict(weights)
    parts = [labelled(folder / part, config, count) for part, count in (("train", BANK), ("test", QUERIES))]
    row = {}
    for suffix, mim in (("", trained), ("_at_initialisation", untrained)):
        mim.eval()
        features = [block_features(mim, images) for images, _ in parts]
        for name, blocks in (("knn_last_block", slice(-1, None)), ("knn", slice(None))):
            bank, queries = (torch.cat([F.normalize(x, dim=1) for x in of[blocks]], dim=1) for of in features)
            row[name + suffix] = knn_accuracy(bank, parts[0][1], queries, parts[1][1])
    return row


@torch.no_grad()
def block_features(mim: MIM, images: Tensor) -> list[Tensor]:
    """Returns the mean over patch tokens, (N, D), after every block of a ViT that reads whole images.

    Args:
        mim: a model whose encoder is a ViT.
        images: (N, H, W, C) uint8.
    """
    encoder: Any = mim.encoder  # only a ViT has blocks of one width
    found: list[list[Tensor]] = [[] for _ in encoder.blocks]
    hooks = [
        block.register_forward_hook(
            lambda _, __, x, rows=rows: rows.append(x[:, encoder.num_prefix_tokens :].mean(dim=1).float())
        )
        for block, rows in zip(encoder.blocks, found, strict=True)
    ]
    for some in images.split(BATCH):
        encoder.features(pixels(mim, some))
    for hook in hooks:
        hook.remove()
    return [torch.cat(rows) for rows in found]


def pixels(mim: MIM, images: Tensor) -> Tensor:
    """Returns normalised pixels, (N, C, H, W) float32."""
    return mim.objective.normalize(images).permute(0, 3, 1, 2)


def row_of(run: Path, folder: Path | None) -> dict:
    """Returns the results of a run as a row for `record`."""
    last = [row for row in metrics(run) if "held_out" in row][-1]
    facts = json.loads((run / "facts.json").read_text())
    row = {
        "case": f"{run.name}: {facts['model']}, {facts['images'].split(', in ')[0]}",
        "device": "cuda" if "CPU" not in facts["devices"] else "cpu",
        "update": last["step"],
        "held_out_loss": last["held_out"],
        **{f"{name}_loss": value for name, value in last["trivial"].items()},
    }
    if folder:
        loaded = checkpoint.load(run / "checkpoints")
        if loaded is None:
            raise ValueError(f"{run}: expected a run with a checkpoint, found none")
        row |= accuracies(from_json(loaded.meta["config"], recipe), loaded.state["model"], folder)
    return row


def learned(row: dict) -> bool:
    """True if a run beats the network at initialisation, or, without accuracies, trivial predictors."""
    if "knn" in row:
        return row["knn"] > row["knn_at_initialisation"]
    return row["held_out_loss"] < min(row[f"{name}_loss"] for name in ("zero", "mean_patch", "interpolation"))


def plot(runs: list[Path], rows: list[dict], file: Path, images: Path | None) -> None:
    """Draws a column for each run: losses and trivial predictors, reconstructions, accuracies.

    Args:
        runs: run folders.
        rows: result of `row_of` for each run.
        file: the PNG.
        images: folder of images to reconstruct; None = show the run's last picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, len(runs), figsize=(3.2 * len(runs), 9), squeeze=False, layout="constrained")
    for column, (run, row) in enumerate(zip(runs, rows, strict=True)):
        curve, picture, bars = axes[:, column]
        lines = metrics(run)
        curve.plot(*zip(*((r["step"], r["loss"]) for r in lines if "loss" in r), strict=True), linewidth=0.7)
        curve.plot(*zip(*((r["step"], r["held_out"]) for r in lines if "held_out" in r), strict=True), marker=".")
        for name in ("zero", "mean_patch", "interpolation"):
            curve.axhline(row[f"{name}_loss"], color="0.5", linestyle="--", linewidth=0.7)
            curve.text(0, row[f"{name}_loss"], name, fontsize=6, va="bottom")
        curve.set_title(run.name, fontsize=9)
        if images:
            visualize(run, images=images, count=3, out=file.with_suffix(".tmp.png"), overwrite=True)
        grids = [file.with_suffix(".tmp.png")] if images else sorted((run / "grids").glob("*.png"))
        picture.imshow(plt.imread(grids[-1]) if grids else [[1.0]])
        picture.axis("off")
        shown = {name: row[name] for name in ("knn_at_initialisation", "knn") if name in row}
        for bar in [bars.bar(["at start", "trained"][: len(shown)], list(shown.values()))] if shown else []:
            bars.bar_label(bar, fmt="%.3f", fontsize=7)
            bars.set_title("k-NN accuracy", fontsize=8)
        bars.set_visible(bool(shown))
    figure.savefig(file, dpi=60)
    file.with_suffix(".tmp.png").unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench learns`."""
    parser = command_parser("learns", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--labelled", type=Path, help="folder with train/CLASS/ and test/CLASS/ images (default: none)")
    parser.add_argument("--plot", type=Path, help="PNG to draw all runs into (default: none)")
    parser.add_argument("--images", type=Path, help="folder of images to draw in it (default: the last pictures)")
    parser.add_argument("--record", action=Record)
    arguments = parser.parse_args(argv)
    if others := [str(run) for run in arguments.runs if not (run / "metrics.jsonl").is_file()]:
        parser.error(f"expected run folders with metrics.jsonl, got {', '.join(others)}")
    rows = []
    for run in arguments.runs:
        with_labels = arguments.labelled if arguments.labelled and run.name.startswith("cifar10") else None
        rows.append(row_of(run, with_labels))
        print(json.dumps(rows[-1], indent=2), flush=True)
        if arguments.record:
            record(rows[-1], "learns")
    if arguments.plot:
        plot(arguments.runs, rows, arguments.plot, arguments.images)
    raise SystemExit(not all(map(learned, rows)))
