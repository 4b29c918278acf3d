"""The training loop around a task. May import L4 and below."""

import time
from itertools import islice
from pathlib import Path

from . import checkpoint, runfolder
from .bittrace import Trace
from .config import Config, Experiment, to_json
from .detection import Detect
from .engine import init_distributed
from .metrics import Meter, announce
from .segmentation import Segment
from .stop import Stop
from .tasks.classify import FineTuning, LinearProbing
from .tasks.detect import Detection
from .tasks.pretrain import Pretrain
from .tasks.segment import Segmentation
from .transfer import Finetune, Probe

TASKS = {
    Config: Pretrain,
    Finetune: FineTuning,
    Probe: LinearProbing,
    Detect: Detection,
    Segment: Segmentation,
}
"""The task that trains a config of each class."""


class Trainer:
    """The loop around a task: train, log, look, save, stop."""

    def __init__(self, config: Experiment):
        self.config, self.folder = config, Path(config.run.dir)
        self.checkpoints = self.folder / "checkpoints"
        self.process = init_distributed(config.train.device, config.train.deterministic)
        self.writes = self.process.rank == 0
        self.lock = runfolder.lock(self.folder) if self.writes else None
        self.task = TASKS[type(config)](config, self.process)
        self.first = self.task.resume(self.checkpoints)
        self.saved = self.first
        if self.writes:
            announce(self.folder, self.task.describe() | {"start": f"update {self.first}"}, to_json(config))
            self.task.manifest.save(str(self.folder / "manifest.json"))

    def fit(self, stop: Stop) -> None:
        task, run = self.task, self.config.run
        last = min(task.total, run.stop_after or task.total)
        batches, every = task.batches(self.first, last), run.evaluate_every or task.total
        trace = Trace(self.folder / "trace.jsonl", self.first) if run.trace and self.writes else None
        done, why, failure = self.first, "finished" if last == task.total else "run.stop_after", None
        with Meter(self.folder, self.first, task.total, self.config, self.process.device, self.writes) as self.meter:
            for step in range(self.first, last):
                result = task.train_step(step, self.meter.waiting(islice(batches, task.engine.accumulation)))
                self.meter.update(result.loss, result.grad_norm, result.skipped)
                done = step + 1
                why = ("finished" if last == task.total else "run.stop_after") if done == last else stop.poll()
                pause = time.perf_counter()
                values = task.fingerprint(step, result) if run.trace else {}
                if trace:
                    trace.record(step, **values)
                if done % run.log_every == 0 or why:
                    why = (failure := self.log(done)) or why
                if task.evaluates and (done % every == 0 or why == "finished"):
                    task.evaluate(done, self.meter)
                if done % run.save_every == 0 or why:
                    self.save(done)
                self.meter.exclude(pause)
                if why:
                    break
        stop.close()
        finished = done == task.total and not failure
        try:
            if self.writes and not (finished and self.saved == done):
                self.end(done, why, failure)
            if finished:
                task.finish(self.meter)
        finally:
            task.close()

    def log(self, done: int) -> str | None:
        """Reads what the updates since the last log gave: the only wait for the device. Returns a reason to stop."""
        task, (losses, norms, skipped) = self.task, self.meter.read()
        bad, failure = task.bad_files()
        values = {"loss": task.mean(losses, skipped), "lr": task.learning_rate(done - 1), "epoch": task.epoch(done)}
        self.meter.log(**values, grad_norm=norms[-1], updates=len(losses), bad_files=bad)
        if (in_a_row := self.meter.skips(done - len(skipped), skipped, task.files)) >= task.max_skipped:
            self.meter.say(  # not saved: the weights may be bad already
                f"stopped: {in_a_row} updates in a row skipped for a non-finite loss or gradient (train.max_skipped). "
                f"Last good checkpoint: update {self.saved} in {self.checkpoints}. "
                "Try a lower learning rate, clipping or another precision; skipped.jsonl names the images"
            )
            raise SystemExit(1)
        return failure

    def save(self, done: int) -> None:
        """Writes a checkpoint; a full disk is reported and training goes on. Collective."""
        state = self.task.state_dict()
        if self.writes:
            try:
                checkpoint.save(self.checkpoints, done, state, self.task.meta(), self.config.run.keep)
            except checkpoint.CheckpointError as error:
                self.meter.say(f"warning: {error}")
                done = done if error.saved else self.saved
        self.saved = done

    def end(self, done: int, why: str, failure: str | None) -> None:
        """Says why a run ends before it has finished, or with a failure, and ends it."""
        if self.saved != done:
            raise SystemExit(f"train.py: update {done} is not saved; the same command continues from {self.saved}")
        go_on = "raise it to go on" if failure or why == "run.stop_after" else "the same command continues"
        self.meter.say(f"stopped at update {done} of {self.task.total} ({why}); {go_on}")
        raise SystemExit(1 if failure else 0)
