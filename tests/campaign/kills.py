"""The kill campaign: SIGKILLs a training run at random moments, restarts it, and compares with the undisturbed run.

`python -m tests.campaign.kills --kills 50` from the repository root; resumable. A moment is drawn uniformly over the
undisturbed run's time from its first update to the end of its last save; two of five kills are instead aimed at a save,
drawn uniformly, and at a uniform moment inside it. Several kills fall in one run; after the last it runs to its end,
and trace, final checkpoint, exported encoder and folder must be what the undisturbed run left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch

from fastmim import bittrace, checkpoint

ROOT = Path(__file__).parents[2]
SAVE_EVERY = 4
KEEP = 2
KILLS_PER_RUN = 5
AIMED = (1, 3)  # which of a run's kills go for a save
POLL_SECONDS = 0.0005
PATIENCE_SECONDS = 600


@dataclass
class Kill:
    """One SIGKILL: where it was meant to fall, and what was found."""

    run: int
    step: int  # the last update before it
    after_seconds: float  # from that update's trace line, or from the start of the save that follows
    aimed_at_save: bool
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
        command += ["--run.trace", "True", "--run.save_every", str(SAVE_EVERY), "--run.keep", str(KEEP)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ".:kernels"}
        with open(folder / "output.txt", "ab") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        self.started = self.wait(lambda: self._inode() != before)
        self.first = self.lines()

    def wait(self, happened) -> bool:
        """Polls until something happened (True) or the process ended (False)."""
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
        """Updates in the trace."""
        return self.trace.read_bytes().count(b"\n") if self.trace.exists() else 0

    def saves(self) -> dict[str, int]:
        """Time of change by name of what is in the checkpoint folder; a kill may have left some of it before."""
        return {path.name: path.stat().st_ctime_ns for path in self.checkpoints.glob("*")}

    def saving(self, step: int) -> bool:
        """Whether this process has begun to save a step."""
        partial = self.checkpoints / f"tmp-step-{step:08d}"
        try:
            return partial.stat().st_ctime_ns != self.found.get(partial.name)
        except FileNotFoundError:
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        """Waits for the end.

        Raises:
            RuntimeError: the command failed.
        """
        if self.process.wait(timeout=PATIENCE_SECONDS):
            raise RuntimeError(f"training ended with {self.process.returncode}: see {self.trace.parent / 'output.txt'}")

    def _inode(self) -> int:
        return self.trace.stat().st_ino if self.trace.exists() else 0


def undisturbed(folder: Path) -> dict:
    """Trains once without kills, or reads what an earlier call noted.

    Returns: seconds since the first trace line: "lines", at which each appeared; "saves", (start, end) by step.
    """
    notes = folder / "timeline.json"
    if notes.exists():
        return json.loads(notes.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    training = Training(folder)
    lines, saves, saving = [], {}, None
    while training.process.poll() is None:
        now = time.monotonic()
        lines += [now] * (training.lines() - len(lines))
        if saving is None:
            saving = next((int(path.name[9:]) for path in training.checkpoints.glob("tmp-step-*")), None)
            if saving:
                saves[saving] = [now, now]
        elif (training.checkpoints / "latest").exists():
            named = (training.checkpoints / "latest").read_text().strip()
            if named == f"step-{saving:08d}" and not any(training.checkpoints.glob("t*-*")):
                saves[saving][1], saving = now, None
        time.sleep(POLL_SECONDS)
    training.finish()
    origin = lines[0]
    timeline = {
        "lines": [t - origin for t in lines],
        "saves": {step: [t - origin for t in times] for step, times in saves.items()},
    }
    notes.write_text(json.dumps(timeline))
    return json.loads(notes.read_text())


def plan(seed: int, run: int, timeline: dict) -> list[Kill]:
    """Draws one run's kills, in the order in which they fall."""
    rng = random.Random(f"{seed}-{run}")
    lines, saves = timeline["lines"], list(timeline["saves"].items())
    end = max(stop for _, (_, stop) in saves)
    kills = []
    for number in range(KILLS_PER_RUN):
        if number in AIMED:
            step, (start, stop) = rng.choice(saves)
            kills.append(Kill(run, int(step) - 1, rng.uniform(0, stop - start), True))
        else:
            moment = rng.uniform(0, end)
            step = sum(t <= moment for t in lines) - 1
            kills.append(Kill(run, step, moment - lines[step], False))
    return sorted(kills, key=lambda kill: (kill.step, kill.aimed_at_save, kill.after_seconds))


def disturbed(folder: Path, kills: list[Kill]) -> Iterator[Kill]:
    """Trains with kills; yields those that fell before the run had ended."""
    shutil.rmtree(folder, ignore_errors=True)
    for kill in kills:
        training = Training(folder)
        kill.resumed_from = training.first
        if kill.aimed_at_save:
            # A save done before this process began comes no more: the next one, then.
            target = max(kill.step + 1, (training.first // SAVE_EVERY + 1) * SAVE_EVERY)
            alive = training.started and training.wait(lambda step=target, run=training: run.saving(step))
        else:
            line = max(kill.step, training.first)
            alive = training.started and training.wait(lambda line=line, run=training: run.lines() > line)
        if not alive:
            training.finish()
            continue
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
    """Whether a checkpoint folder shows a save that began and did not end."""
    if not checkpoints.exists():
        return False
    steps = sorted(checkpoints.glob("step-*"))
    latest = checkpoints / "latest"
    unnamed = steps and (not latest.exists() or latest.read_text().strip() != steps[-1].name)
    return bool(any(checkpoints.glob("t*-*")) or unnamed or len(steps) > KEEP)


def outcome(reference: Path, folder: Path) -> str:
    """ "identical", or what differs first."""
    if difference := bittrace.diff(reference / "trace.jsonl", folder / "trace.jsonl"):
        return difference
    a, b = result(reference), result(folder)
    names = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    return f"{names[0]} differs" if names else "identical"


def result(folder: Path) -> dict[str, str]:
    """All that kills must not change: the last checkpoint, the exported encoder, and that nothing else is left."""
    problems = []
    loaded = checkpoint.load(folder / "checkpoints", report=problems.append)
    # A step that was saved again has a number behind its name.
    left = sorted(path.name.split(".")[0] for path in (folder / "checkpoints").iterdir())
    found = {"checkpoints": str(left), "checkpoint problems": str(problems), "step": str(loaded.step)}
    found["checkpoint meta"] = json.dumps(loaded.meta).replace(str(folder), "")
    files = [loaded.path / "model.safetensors", loaded.path / "optimizer.safetensors", *(folder / "encoder").iterdir()]
    return found | {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main() -> int:
    """Runs the campaign; prints a table and writes it to bench/results; 0 if every run ended identical."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="kills at least")
    parser.add_argument("--inside", type=int, default=15, help="kills inside a save at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, default=Path("runs/kills"), help="run folders and progress; resumes there")
    parser.add_argument("--out", type=Path, help="default: bench/results/kills_cpu_<yyyymm>.jsonl")
    arguments = parser.parse_args()
    base = arguments.dir.resolve() / f"seed{arguments.seed}"
    progress = base / "progress.jsonl"
    timeline = undisturbed(base / "undisturbed")
    rows = [json.loads(line) for line in progress.read_text().splitlines()] if progress.exists() else []
    run = max((row["run"] for row in rows), default=-1) + 1
    while len(rows) < arguments.kills or sum(row["inside_save"] for row in rows) < arguments.inside:
        folder = base / f"run{run}"
        kills = list(disturbed(folder, plan(arguments.seed, run, timeline)))
        verdict = outcome(base / "undisturbed", folder)
        rows += (new := [asdict(kill) | {"seed": arguments.seed, "outcome": verdict} for kill in kills])
        with open(progress, "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        for row in new:
            kind = ("aimed " if row["aimed_at_save"] else "") + ("inside a save" if row["inside_save"] else "")
            print(f"run {run:3d}  from {row['resumed_from']:3d}  killed at {row['reached']:3d}  {kind:20s} {verdict}")
        sys.stdout.flush()
        if verdict == "identical":
            shutil.rmtree(folder)
        run += 1
    bad = sum(row["outcome"] != "identical" for row in rows)
    inside = sum(row["inside_save"] for row in rows)
    aimed = sum(row["aimed_at_save"] for row in rows)
    print(f"{len(rows)} kills ({aimed} aimed at a save), {inside} inside a save, {run} runs: {bad} not identical")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    summary = {
        "what": "kills", "seed": arguments.seed, "kills": len(rows), "aimed_at_save": aimed, "inside_save": inside,
        "runs": run, "not_identical": bad, "updates": len(timeline["lines"]), "save_every": SAVE_EVERY,
        "training_seconds": round(timeline["lines"][-1], 2), "command": " ".join(["python -m tests.campaign.kills"]
        + sys.argv[1:]), "date": date.today().isoformat(), "commit": commit, "torch": torch.__version__,
        "python": platform.python_version(), "cpus": os.cpu_count(),
    }  # fmt: skip
    out = arguments.out or ROOT / f"bench/results/kills_cpu_{date.today():%Y%m}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in [summary, *rows]))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
