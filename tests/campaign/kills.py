"""The kill campaign: kills a training run at random moments, and compares it with an undisturbed run.

Run `python -m tests.campaign.kills --kills 50` from the repository root; the same command continues. The moments are
drawn uniformly between the first update of the undisturbed run and the end of its last save. No kill is aimed at a
save. The model is wide, its inputs are tiny and every update is saved, so saves take a good part of the time. Several
kills fall in one run, which then runs to its end. Its trace, last checkpoint, exported encoder and folder must equal
those of the undisturbed run. Two runs train at the same time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import record
from fastmim import bittrace
from fastmim.data.demo import write_demo_images
from fastmim.run import checkpoint
from tests.campaign.ledger import ROOT, Ledger, digest

KEEP = 2
IMAGES = "images"
SETTINGS = {
    "run.trace": True, "run.save_every": 1, "run.keep": KEEP, "run.evaluate_every": 0,
    "train.epochs": 1, "train.global_batch": 8, "optim.warmup_epochs": 0.25,
    "encoder.patch_size": 16, "encoder.depth": 2, "encoder.embed_dim": 256, "encoder.num_heads": 4,
}  # fmt: skip
KILLS_PER_RUN = 5
RUNS_AT_A_TIME = 2
POLL_SECONDS = 0.001
PATIENCE_SECONDS = 600
COVERED = ("fastmim/run", "fastmim/engine", "fastmim/data", "fastmim/tasks", "fastmim/train.py")
"""Files that kills and restarts depend on: a change of these files makes an earlier result stale."""


@dataclass
class Kill:
    """One SIGKILL: its planned moment, and the state of the run when it fell."""

    run: int
    step: int  # the last update before it
    after_seconds: float  # from that update's trace line
    resumed_from: int = 0  # where the killed process itself had begun
    reached: int = 0  # updates in the trace when it died
    inside_save: bool = False  # the folder shows a save cut short


class Training:
    """One process of the training command in one run folder, watched from outside."""

    def __init__(self, folder: Path):
        self.trace, self.checkpoints = folder / "trace.jsonl", folder / "checkpoints"
        before, self.found = self._inode(), self.saves()
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "fastmim/train.py", "configs/debug/tiny_cpu.py", "--run.dir", str(folder)]
        command.append(f"--data.root={folder.parent / IMAGES}")
        command += [f"--{name}={value}" for name, value in SETTINGS.items()]
        environment = {**os.environ, "PYTHONPATH": ".:kernels"}
        with open(folder / "output.txt", "ab") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        self.started = self.wait(lambda: self._inode() != before)
        self.first = self.lines()

    def wait(self, happened) -> bool:
        """Polls until the condition holds, and returns True; returns False if the process ended before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.trace.parent}: nothing happened for {PATIENCE_SECONDS} s")
            time.sleep(POLL_SECONDS)
        return True

    def lines(self) -> int:
        """Returns the number of updates in the trace."""
        return self.trace.read_bytes().count(b"\n") if self.trace.exists() else 0

    def saves(self) -> dict[str, int]:
        """Returns the times of change in the checkpoint folder, by name; earlier kills may have left some entries."""
        return {path.name: path.stat().st_ctime_ns for path in self.checkpoints.glob("*")}

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        """Waits for the end of the process.

        Raises:
            RuntimeError: the command failed.
        """
        if self.process.wait(timeout=PATIENCE_SECONDS):
            raise RuntimeError(f"training ended with {self.process.returncode}: see {self.trace.parent / 'output.txt'}")

    def _inode(self) -> int:
        return self.trace.stat().st_ino if self.trace.exists() else 0


def undisturbed(folder: Path) -> dict:
    """Trains once without kills, or reads the notes of an earlier call.

    Returns:
        "lines", the seconds from the first trace line to each line; "end", to the end of the last save; "saving", the
        seconds spent in saves until then.
    """
    notes = folder / "timeline.json"
    if notes.exists():
        return json.loads(notes.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    training = Training(folder)
    lines, end, saving, before = [], 0.0, 0.0, None
    while training.process.poll() is None:
        now = time.monotonic()
        lines += [now] * (training.lines() - len(lines))
        if cut_short(training.checkpoints):
            saving, end, before = saving + now - (before or now), now, now
        else:
            before = None
        time.sleep(POLL_SECONDS)
    training.finish()
    notes.write_text(json.dumps({"lines": [t - lines[0] for t in lines], "end": end - lines[0], "saving": saving}))
    return json.loads(notes.read_text())


def plan(seed: int, run: int, timeline: dict) -> list[Kill]:
    """Draws the kills of one run, in their order in time."""
    rng = random.Random(f"{seed}-{run}")
    kills = []
    for moment in sorted(rng.uniform(0, timeline["end"]) for _ in range(KILLS_PER_RUN)):
        step = sum(t <= moment for t in timeline["lines"]) - 1
        kills.append(Kill(run, step, moment - timeline["lines"][step]))
    return kills


def disturbed(folder: Path, kills: list[Kill]) -> Iterator[Kill]:
    """Trains with kills, and yields the kills that fell before the run had ended."""
    shutil.rmtree(folder, ignore_errors=True)
    for kill in kills:
        training = Training(folder)
        kill.resumed_from = training.first
        line = max(kill.step, training.first)
        if training.started and training.wait(lambda line=line, run=training: run.lines() > line):
            time.sleep(kill.after_seconds)
        if training.process.poll() is not None:
            training.finish()
            continue
        training.kill()
        kill.reached = training.lines()
        kill.inside_save = training.saves() != training.found and cut_short(training.checkpoints)
        yield kill
    Training(folder).finish()


def cut_short(checkpoints: Path) -> bool:
    """True if a checkpoint folder holds an unfinished save."""
    if not checkpoints.exists():
        return False
    steps = sorted(checkpoints.glob("step-*"))
    latest = checkpoints / "latest"
    unnamed = steps and (not latest.exists() or latest.read_text().strip() != steps[-1].name)
    return bool(any(checkpoints.glob("t*-*")) or unnamed or len(steps) > KEEP)


def outcome(reference: Path, folder: Path) -> str:
    """Returns "identical", or the first difference."""
    if difference := bittrace.diff(reference / "trace.jsonl", folder / "trace.jsonl"):
        return difference
    a, b = result(reference), result(folder)
    names = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    return f"{names[0]} differs" if names else "identical"


def result(folder: Path) -> dict[str, str]:
    """Returns the results that kills must not change: last checkpoint, exported encoder, list of files."""
    problems = []
    loaded = checkpoint.load(folder / "checkpoints", report=problems.append)
    # A step that was saved again has a number behind its name.
    left = sorted(path.name.split(".")[0] for path in (folder / "checkpoints").iterdir())
    found = {"checkpoints": str(left), "checkpoint problems": str(problems), "step": str(loaded.step)}
    found["checkpoint meta"] = json.dumps(loaded.meta).replace(str(folder), "")
    files = [loaded.path / "model.safetensors", loaded.path / "optimizer.safetensors"]
    files += [folder / "encoder/model.safetensors", folder / "encoder/config.json"]  # the card tells times and places
    return found | {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stale(row: dict) -> list[str]:
    """Returns the files that a recorded campaign depends on and that have changed since."""
    return [name for name in COVERED if row["covered"].get(name) != digest([name])]


def main() -> int:
    """Runs the campaign, prints and records it; returns 0 if every run ended identical."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="kills at least")
    parser.add_argument("--inside", type=int, default=15, help="kills inside a save at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, default=Path("runs/kills"), help="run folders and progress; resumes there")
    ledger = Ledger(parser, "kills")
    arguments = ledger.arguments
    base = arguments.dir.resolve() / f"{ledger.origin['commit'][:12]}-seed{arguments.seed}"
    if ledger.origin["dirty"]:
        shutil.rmtree(base, ignore_errors=True)

    write_demo_images(str(base / IMAGES), 600, (64, 64))
    with ThreadPoolExecutor(RUNS_AT_A_TIME) as pool:
        references = [base / f"undisturbed{number}" for number in range(RUNS_AT_A_TIME)]
        timeline, *_ = pool.map(undisturbed, references)
        for other in references[1:]:
            if (verdict := outcome(references[0], other)) != "identical":
                raise RuntimeError(f"two undisturbed runs differ: {verdict}")

        def campaign(run: int) -> list[dict]:
            folder = base / f"run{run}"
            kills = list(disturbed(folder, plan(arguments.seed, run, timeline)))
            verdict = outcome(references[0], folder)
            if verdict == "identical":
                shutil.rmtree(folder)
            return [asdict(kill) | {"outcome": verdict} for kill in kills]

        progress = base / "progress.json"
        rounds = json.loads(progress.read_text()) if progress.exists() else []
        rows = [row for done in rounds for row in done]
        while len(rows) < arguments.kills or sum(row["inside_save"] for row in rows) < arguments.inside:
            first = len(rounds) * RUNS_AT_A_TIME
            new = [row for run in pool.map(campaign, range(first, first + RUNS_AT_A_TIME)) for row in run]
            for row in new:
                print("run {run:3d}  from {resumed_from:3d}  killed at {reached:3d}".format(**row), end="  ")
                print(f"{'inside a save' if row['inside_save'] else '':13s}  {row['outcome']}", flush=True)
            rounds, rows = [*rounds, new], rows + new
            progress.write_text(json.dumps(rounds))

    summary = {
        "case": "SIGKILLs drawn uniformly over the training time",
        "kills": len(rows),
        "inside_save": sum(row["inside_save"] for row in rows),
        "not_identical": sum(row["outcome"] != "identical" for row in rows),
        "runs": len(rounds) * RUNS_AT_A_TIME,
        "too_late": len(rounds) * RUNS_AT_A_TIME * KILLS_PER_RUN - len(rows),
        "seed": arguments.seed,
        "updates": len(timeline["lines"]),
        "training_seconds": round(timeline["end"], 2),
        "share_in_saves": round(timeline["saving"] / timeline["end"], 3),
    }
    print(summary)
    tracked = record.git("ls-files", "--", "fastmim", "kernels").splitlines()
    summary["sources"] = digest([name for name in tracked if name.endswith((".py", ".cpp", ".h"))])
    summary["covered"] = {name: digest([name]) for name in COVERED}
    summary["each"] = {key: [row[key] for row in rows] for key in ("run", "resumed_from", "reached", "inside_save")}
    ledger.record(summary)
    return int(summary["not_identical"] > 0)


if __name__ == "__main__":
    sys.exit(main())
