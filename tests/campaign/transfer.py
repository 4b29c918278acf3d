"""The transfer campaign: compares a pre-trained encoder with the same network from random initialisation.

`python -m tests.campaign.transfer --data CIFAR` from the repository root runs every proof of PROOFS over SEEDS, by the
commands that a person types. `--only NAME` takes the proofs whose name contains NAME. Arms that are recorded and not
stale are left out, so the same command continues; an arm that was cut short starts again. Each arm is one process with
one thread, and its CPU time is recorded, so other work on the machine does no harm.

A comparison holds if the means differ by more than the spread of each arm. The spread is the largest score minus the
smallest over the seeds. An arm with the budget of other arms must also have taken as much CPU time as these arms
together.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from bench import record
from fastmim.config.config_file import load
from fastmim.config.json_form import to_json
from fastmim.tasks.trainer import TASKS
from tests.campaign import rows
from tests.campaign.ledger import Ledger, digest
from tests.campaign.proofs import PROOFS, Comparison
from tests.methods.tiny import ROOT

SEEDS = (0, 1, 2)
COVERED = (
    *rows.COVERED,
    *("fastmim/analysis/nearest_neighbours.py", "fastmim/tasks/knn.py", "fastmim/config/classify.py"),
)
"""Files that an arm depends on, besides those of `covered`; a change makes earlier results stale."""


def case(proof: str, arm: str, seed: int) -> str:
    return f"{proof}, {arm}, seed {seed}"


def newest() -> dict[str, dict]:
    """Returns the last recorded row of each arm and seed."""
    return {row["case"]: row for row in record.read("transfer")}


def chain(proof: str, arm: str) -> list[str]:
    """Returns the commands of an arm and of the arms whose run folders it reads."""
    arms = PROOFS[proof].arms
    words = arms[arm].words.split()
    before = [name for name, spec in arms.items() if name != arm and spec.folder and f"{{run}}/{spec.folder}" in words]
    return [*(line for name in before for line in chain(proof, name)), arms[arm].words]


def covered(proof: str, arm: str) -> dict[str, str]:
    """Returns digests of everything that an arm depends on: files by name, and commands with their configs."""
    lines = chain(proof, arm)
    paths = sorted({word for line in lines for word in line.split() if word.startswith("configs/")})
    configs = [load(ROOT / path) for path in paths]
    files = {*COVERED, *PROOFS[proof].arms[arm].files}
    for config in configs:
        kinds = [kind for kind in TASKS[type(config)].__mro__ if kind.__module__.startswith("fastmim.")]
        files |= {Path(inspect.getfile(kind)).relative_to(ROOT).as_posix() for kind in kinds}
        files |= set(rows.encoder_files(config.encoder))
    commands = hashlib.sha256(json.dumps([lines, [to_json(config) for config in configs]]).encode()).hexdigest()
    found = {file: digest([file]) for file in sorted(files)}
    return found | {"the commands and configs": commands, "the data": maker(proof)}


def maker(proof: str) -> str:
    """Returns a digest of the code that makes the data of a proof."""
    spec = PROOFS[proof]
    return hashlib.sha256((inspect.getsource(spec.data) + digest(spec.files)).encode()).hexdigest()


def stale(row: dict) -> list[str]:
    """Returns the names of what a recorded row depends on and that has changed since."""
    now = covered(row["proof"], row["arm"])
    return [name for name, value in now.items() if row["covered"].get(name) != value]


def verdict(found: dict[str, dict], name: str, comparison: Comparison) -> tuple[bool, str]:
    """Returns True if a comparison of a proof holds, and the line that says so.

    Args:
        found: rows by case.
        name: the proof.
        comparison: the comparison.
    """
    arms = (comparison.better, comparison.worse, *comparison.budget)
    if missing := [c for c in (case(name, arm, seed) for arm in arms for seed in SEEDS) if c not in found]:
        return False, f"{comparison.better} > {comparison.worse}: not yet, {missing[0]} is not recorded"

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
    """Runs one arm from its beginning, and returns its row.

    Raises:
        RuntimeError: the command failed; ends with its output.
    """
    spec = PROOFS[name].arms[arm]
    if spec.folder:
        shutil.rmtree(folder / spec.folder, ignore_errors=True)
    command = [word.format(data=data, run=folder, seed=seed) for word in spec.words.split()]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{case(name, arm, seed)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = {"case": case(name, arm, seed), "proof": name, "arm": arm, "seed": seed}
    if spec.found:
        file, name_in_it = spec.found.split(":")
        row["score"] = json.loads((folder / file).read_text())[name_in_it]
    if spec.folder:
        lines = (folder / spec.folder / "metrics.jsonl").read_text().splitlines()
        row["updates"] = max(json.loads(line)["step"] for line in lines)
        config = json.loads((folder / spec.folder / "config.json").read_text())
        row["images"] = row["updates"] * config["train"]["global_batch"]
        row["precision"] = json.loads((folder / spec.folder / "facts.json").read_text())["precision"]
    row["CPU seconds"] = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)
    return row | {"ran": record.command_line(["", *command])}


def main() -> int:
    """Runs the campaign, records each arm and prints the comparisons; returns 0 if all hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="CIFAR-10 as image files, in train/CLASS/ and test/CLASS/")
    parser.add_argument("--only", default="", help="part of the proof's name")
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=SEEDS, help="for several processes")
    parser.add_argument("--dir", type=Path, default=Path("runs/transfer"), help="where the runs go")
    ledger = Ledger(parser, "transfer")
    arguments = ledger.arguments
    names = [name for name in PROOFS if arguments.only in name]
    if not names:
        parser.error(f"--only: none of {', '.join(PROOFS)} contains {arguments.only!r}")
    found, kept = newest(), 0
    for name in names:
        data = arguments.dir.resolve() / name / f"data_{maker(name)[:8]}"
        arms = PROOFS[name].arms
        recorded = {label: row for label, row in found.items() if row["proof"] == name and row["arm"] in arms}
        known = {label for label, row in recorded.items() if not stale(row)}
        for seed in arguments.seeds:
            folder = data.with_name(f"seed{seed}")
            missing = [arm for arm in arms if case(name, arm, seed) not in known]
            for arm, spec in arms.items():
                needed = any(spec.words in chain(name, other) for other in missing)
                lost = needed and not spec.found and not (folder / spec.folder / "checkpoints/latest").exists()
                if arm not in missing and not lost:
                    kept += 1
                    continue
                if not data.exists():
                    shutil.rmtree(beside := data.with_name(f"making{seed}"), ignore_errors=True)
                    try:
                        PROOFS[name].data(beside, arguments.data)
                    except ValueError as error:
                        parser.error(str(error))
                    try:
                        beside.rename(data)
                    except OSError:
                        if not data.exists():
                            raise
                        shutil.rmtree(beside)  # another process was first
                row = attempt(name, arm, seed, data, folder)
                found[row["case"]] = row
                print(*row.values(), sep="  ", flush=True)
                ledger.record(row | {"covered": covered(name, arm)})
    print(f"{kept} arms were recorded and not stale")
    found |= newest()  # those of other processes too
    verdicts = [verdict(found, name, comparison) for name in names for comparison in PROOFS[name].comparisons]
    print("\n".join(words for _, words in verdicts))
    return int(not all(holds for holds, _ in verdicts))


if __name__ == "__main__":
    sys.exit(main())
