"""The transfer campaign: is a pre-trained encoder worth more than the same network from random initialisation?

`python -m tests.campaign.transfer --data CIFAR` from the repository root runs every proof of PROOFS over SEEDS by the
commands that a person types; `--only NAME` takes the proofs whose name contains it. An arm that is recorded and not
stale is left out, so the same command continues; one that was cut short starts again. Each arm is one process with one
thread, whose CPU time is what it took: the machine may be busy otherwise.

A comparison holds if the means differ by more than the spread (largest less smallest over the seeds) of either arm, and
if an arm that is given the budget of others took no less than they did together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import record
from fastmim.config import load, to_json
from tests.campaign import rows
from tests.campaign.kills import digest
from tests.methods.tiny import ROOT

SEEDS = (0, 1, 2)
OWN = ("analysis/knn", "classifier", "data/augment", "tasks/classify", "tasks/knn", "transfer")
COVERED = (*rows.COVERED, *(f"fastmim/{name}.py" for name in OWN))
"""What an arm depends on, beside the commands and the configs: a change here makes an earlier result stale."""


@dataclass(frozen=True)
class Arm:
    """One command, and the number that it leaves, if it does.

    words: behind `python`; {data}, {run} (the folder of all runs of a seed) and {seed} are filled in.
    found: file in {run}, and the name of the number in it.
    """

    words: str
    found: tuple[str, str] | None = None

    def command(self, data: Path, run: Path, seed: int) -> list[str]:
        return [word.format(data=data, run=run, seed=seed) for word in self.words.split()]

    @property
    def folder(self) -> str | None:
        """The run folder that it makes, by its name in {run}."""
        words = self.words.split()
        return words[words.index("--run.dir") + 1].removeprefix("{run}/") if "--run.dir" in words else None


@dataclass(frozen=True)
class Comparison:
    """Two arms, of which the first must be better; the second must have had the CPU time of `budget` together."""

    better: str
    worse: str
    budget: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proof:
    """What is compared on one data set.

    data: makes the folder {data} from the user's, or from nothing.
    arms: by name; each needs what those before it left.
    """

    data: Callable[[Path, Path | None], None]
    arms: dict[str, Arm]
    comparisons: tuple[Comparison, ...]


def few_labels(folder: Path, source: Path | None) -> None:
    """CIFAR-10 as README.md has it: {data}/all without labels; {data}/few with 100 a class, and all test images.

    Raises:
        ValueError: `source` has no class folders.
    """
    if source is None or not (source / "train").is_dir() or not (source / "test").is_dir():
        raise ValueError("--data: expected CIFAR-10 as image files, in train/CLASS/ and test/CLASS/")
    (folder / "few").mkdir(parents=True)
    (folder / "all").symlink_to(source.resolve() / "train")
    (folder / "few/test").symlink_to(source.resolve() / "test")
    for image in source.glob("train/*/00??.jpg"):
        (folder / "few/train" / image.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / "few/train" / image.parent.name)


def classification(network: str, pretraining: str, scratch: str, budget_epochs: int) -> Proof:
    """Probe, k-NN and fine-tuning on a few labels against the same from random initialisation.

    Args:
        scratch: settings that are better for training from scratch than those of fine-tuning.
        budget_epochs: from scratch for as long as pre-training and fine-tuning take together.
    """
    pretrain = f"fastmim/train.py configs/debug/{pretraining}.py --data.root {{data}}/all --train.seed {{seed}}"
    labelled = "--data.root {data}/few/train --data.test {data}/few/test --train.seed {seed} --run.dir {run}/"
    probe, finetune = (f"fastmim/train.py configs/debug/cifar10_{kind}_{network}.py" for kind in ("probe", "finetune"))
    knn = "-m fastmim.cli knn {run}/%s --data {data}/few --crop-pct 1"

    def top1(run: str) -> tuple[str, str]:
        return f"{run}/result.json", "top1"

    return Proof(
        few_labels,
        {
            "pre-training": Arm(f"{pretrain} --run.dir {{run}}/pretrained"),
            "no pre-training": Arm(f"{pretrain} --run.dir {{run}}/random --optim.blr 0 --run.stop_after 1"),
            "k-NN": Arm(knn % "pretrained", ("pretrained/knn.json", "top1")),
            "k-NN, random": Arm(knn % "random", ("random/knn.json", "top1")),
            "probe": Arm(f"{probe} {labelled}probe --run.init {{run}}/pretrained", top1("probe")),
            "probe, random": Arm(f"{probe} {labelled}probe_random --run.init None", top1("probe_random")),
            "fine-tuning": Arm(f"{finetune} {labelled}finetune --run.init {{run}}/pretrained", top1("finetune")),
            "from scratch": Arm(f"{finetune} {labelled}scratch --run.init None {scratch}", top1("scratch")),
            "from scratch, whole budget": Arm(
                f"{finetune} {labelled}budget --run.init None {scratch} --train.epochs {budget_epochs}", top1("budget")
            ),
        },
        (
            Comparison("k-NN", "k-NN, random"),
            Comparison("probe", "probe, random"),
            Comparison("fine-tuning", "from scratch"),
            Comparison("fine-tuning", "from scratch, whole budget", ("pre-training", "fine-tuning")),
        ),
    )


PROOFS = {
    "cifar10_vit": classification("vit", "cifar10_mae_32px", "--optim.layer_decay 1", 56),
}


def case(proof: str, arm: str, seed: int) -> str:
    return f"{proof}, {arm}, seed {seed}"


def newest() -> dict[str, dict]:
    """The last recorded row of each arm and seed."""
    return {row["case"]: row for row in record.read("transfer")}


def covered(name: str) -> dict[str, str]:
    """Digests of what the arms of a proof depend on: files, by their names, and all commands with their configs."""
    words = [arm.words for arm in PROOFS[name].arms.values()]
    paths = sorted({word for words_of in words for word in words_of.split() if word.startswith("configs/")})
    configs = [to_json(load(ROOT / path)) for path in paths]
    commands = hashlib.sha256(json.dumps([words, configs]).encode()).hexdigest()
    return {file: digest([file]) for file in COVERED} | {"the commands and configs": commands}


def stale(row: dict) -> list[str]:
    """What a recorded row depends on and has changed since."""
    return [name for name, value in covered(row["proof"]).items() if row["covered"].get(name) != value]


def verdict(found: dict[str, dict], name: str, comparison: Comparison) -> tuple[bool, str]:
    """Whether a comparison of a proof holds, and the line that says so.

    Args:
        found: rows by case; all seeds of all arms that are compared.
    """

    def column(arm: str, key: str) -> list[float]:
        return [found[case(name, arm, seed)][key] for seed in SEEDS]

    scores = [column(arm, "score") for arm in (comparison.better, comparison.worse)]
    (better, worse), spreads = map(statistics.mean, scores), [max(some) - min(some) for some in scores]
    holds, words = better - worse > max(spreads), ""
    if comparison.budget:
        had = statistics.mean(column(comparison.worse, "CPU seconds"))
        needed = sum(statistics.mean(column(arm, "CPU seconds")) for arm in comparison.budget)
        holds, words = holds and had >= needed, f", {had:.0f} CPU seconds against {needed:.0f}"
    sides = [
        f"{arm} {100 * mean:.1f} (spread {100 * spread:.1f})"
        for arm, mean, spread in zip((comparison.better, comparison.worse), (better, worse), spreads, strict=True)
    ]
    return holds, f"{name}: {' > '.join(sides)}{words}: {'holds' if holds else 'FAILS'}"


def attempt(name: str, arm: str, seed: int, data: Path, folder: Path) -> dict:
    """Runs one arm from its beginning.

    Raises:
        RuntimeError: the command failed; ends with what it printed.
    """
    spec = PROOFS[name].arms[arm]
    if spec.folder:
        shutil.rmtree(folder / spec.folder, ignore_errors=True)
    command = spec.command(data, folder, seed)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{case(name, arm, seed)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = {"case": case(name, arm, seed), "proof": name, "arm": arm, "seed": seed}
    if spec.found:
        row["score"] = json.loads((folder / spec.found[0]).read_text())[spec.found[1]]
    if spec.folder:
        lines = (folder / spec.folder / "metrics.jsonl").read_text().splitlines()
        row["updates"] = max(json.loads(line)["step"] for line in lines)
        config = json.loads((folder / spec.folder / "config.json").read_text())
        row["images"] = row["updates"] * config["train"]["global_batch"]
    row["CPU seconds"] = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row | {"ran": record.command_line(["", *command])}


def main() -> int:
    """Runs the campaign, records each arm in bench/results and prints the comparisons; 0 if all hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="CIFAR-10 as image files, in train/CLASS/ and test/CLASS/")
    parser.add_argument("--only", default="", help="part of the proof's name")
    parser.add_argument("--dir", type=Path, default=Path("runs/transfer"), help="where the runs go")
    parser.add_argument("--allow-dirty", action="store_true", help="try it on uncommitted changes; records nothing")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)  # what the provenance is to say of the training processes
    origin = record.provenance("cpu")
    if origin["dirty"] and not arguments.allow_dirty:
        parser.error("the tree has uncommitted changes: commit them, or try the campaign with --allow-dirty")
    names = [name for name in PROOFS if arguments.only in name]
    if not names:
        parser.error(f"--only: none of {', '.join(PROOFS)} contains {arguments.only!r}")
    found, kept = newest(), 0
    for name in names:
        data = arguments.dir.resolve() / name / "data"
        known = {label for label, row in found.items() if row["proof"] == name and not stale(row)}
        for seed in SEEDS:
            folder = data.with_name(f"seed{seed}")
            missing = [arm for arm in PROOFS[name].arms if case(name, arm, seed) not in known]
            for arm, spec in PROOFS[name].arms.items():
                lost = bool(missing) and not spec.found and not (folder / spec.folder / "checkpoints/latest").exists()
                if arm not in missing and not lost:
                    kept += 1
                    continue
                if not data.exists():
                    shutil.rmtree(beside := data.with_name("making"), ignore_errors=True)
                    PROOFS[name].data(beside, arguments.data)
                    beside.rename(data)
                row = attempt(name, arm, seed, data, folder)
                found[row["case"]] = row
                print(*row.values(), sep="  ", flush=True)
                if not arguments.allow_dirty:
                    if record.provenance("cpu") != origin:
                        raise RuntimeError("the tree changed during the campaign: this row is not recorded")
                    record.record(row | {"covered": covered(name), "device": "cpu"}, "transfer")
    print(f"{kept} arms were recorded and not stale")
    verdicts = [verdict(found, name, comparison) for name in names for comparison in PROOFS[name].comparisons]
    print("\n".join(words for _, words in verdicts))
    return int(not all(holds for holds, _ in verdicts))


if __name__ == "__main__":
    sys.exit(main())
