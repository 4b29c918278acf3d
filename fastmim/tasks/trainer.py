"""The training loop around a task. May import L4 and below."""

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..config.base import Config, Experiment, to_json
from ..config.classify import Finetune, Probe
from ..config.detect import Detect
from ..config.segment import Segment
from ..engine.process import init_distributed
from ..engine.settings import deepspeed_config, resolve_precision
from ..host.records import reason
from ..host.terminal import shown
from ..run import checkpoint
from ..run import folder as runfolder
from ..run.metrics import Meter, announce, duration, say
from ..run.pace import Pace
from ..run.skips import SkippedInARow
from ..run.stop import Stop
from ..run.trace import NAME, Trace
from .classify import FineTuning, LinearProbing
from .detect import Detection
from .inherited_settings import inherit_settings
from .pretrain import Pretrain
from .run_outputs import attempt, check_outputs
from .segment import Segmentation

TASKS = {
    Config: Pretrain,
    Finetune: FineTuning,
    Probe: LinearProbing,
    Detect: Detection,
    Segment: Segmentation,
}
"""The task that trains a config of each class."""


class Trainer:
    """The loop around a task: train, log, save, evaluate, stop.

    The loop holds a lock while an update changes the state, and while a checkpoint is written. It lets go of the lock
    while it waits for images or computes gradients, so that `save_now` can save from another thread.
    """

    def __init__(self, config: Experiment, given: Mapping[str, str], stop: Stop):
        """
        Args:
            given: the words of each setting that was given on the command line, by name.
        """
        self.folder, self.stop = Path(config.run.dir), stop
        self.checkpoints = self.folder / "checkpoints"
        kind = TASKS[type(config)]
        kind.check_packages(config)
        self.process = init_distributed(config.train.device, config.train.deterministic)
        stop.join(self.process.rank, self.process.world, config.train.timeout)
        self.writes = self.process.rank == 0
        self.busy, self.writing = threading.Lock(), False
        # Refused before anything is read or made.
        check_folders(config)
        deepspeed_config(config, self.process.world, resolve_precision(config.train, self.process.device))
        with runfolder.starting(self.folder) if self.writes else contextlib.nullcontext() as self.lock:
            check_outputs(self.folder)
            self.inherited = inherit_settings(config, given)
            self.config = config = self.inherited.config
            self.task = kind(config, self.process)
            self.first = self.task.resume(self.checkpoints)
            if self.first > self.task.total:
                raise ValueError(
                    f"{self.checkpoints} holds update {self.first}, but train.epochs={config.train.epochs:g} ends at "
                    f"{self.task.total}: raise train.epochs, or choose another run.dir"
                )
        self.done = self.saved = self.first
        self.doubted = False
        self.task.engine.unchanged = self.idle
        if self.writes:
            words = {"inherited": self.inherited.words} if self.inherited.words else {}
            facts = self.task.describe() | words | {"start": f"update {self.first}"}
            announce(self.folder, facts, to_json(config))
            try:
                self.task.manifest.save(str(self.folder / "manifest.json"))
            except (OSError, ValueError) as error:
                say(f"warning: manifest.json could not be written ({reason(error)}); training goes on")

    def fit(self) -> None:
        task, run, stop = self.task, self.config.run, self.stop
        last = min(task.total, run.stop_after or task.total)
        batches, every = task.batches(self.first, last), run.evaluate_every or task.total
        skipped = SkippedInARow()
        trace = Trace(self.folder / NAME, self.first, say) if run.trace and self.writes else None
        done, why, failure = self.first, "finished" if last == task.total else "run.stop_after", None
        self.pace = Pace(self.first, run.log_every)
        place = self.folder, self.first, task.total, self.config, self.process.device, self.writes
        stop.watch(self)
        with Meter(*place, task.engine.accumulation) as self.meter:
            for line in (*task.notes, *task.doubts()):
                self.meter.say(f"warning: {line}")
            for step in range(self.first, last):
                micro_batches = self.meter.waiting(islice(batches, task.engine.accumulation))
                with self.busy:
                    result = task.train_step(step, self.while_idle(micro_batches))
                    done = self.done = step + 1
                self.meter.update(result.loss, result.grad_norm, result.skipped)
                why = ("finished" if last == task.total else "run.stop_after") if done == last else stop.poll()
                pause = time.perf_counter()
                values = task.fingerprint(step, result) if run.trace else {}
                if trace:
                    trace.record(step, **values)
                skips = skipped.add(result.skipped)
                if why or skips >= task.max_skipped or self.log_is_due(done):
                    why = (failure := self.log(done)) or why
                if done % run.save_every == 0 or why:
                    self.save(done)
                # The last evaluation is part of `finish`, once all is saved.
                if task.evaluates and done % every == 0 and done < task.total:
                    with attempt("the evaluation", self.meter, "training goes on"):
                        task.evaluate(done, self.meter)
                self.meter.exclude(pause)
                if why:
                    break
            stop.settle()
            if trace:
                trace.close()
            # Only the first process knows if its checkpoint was written, and `finish` is the work of all.
            finished = done == task.total and not failure and self.from_first(self.saved) == done
            try:
                if finished:
                    with stop.finishing():
                        task.finish(self.meter)
                elif self.writes:
                    self.end(done, why, failure)
            finally:
                task.close()
        if finished and (missing := task.outputs.missing):
            words = f"finished and saved, but without {', '.join(missing)}: the same command tries again"
            raise SystemExit(f"train.py: {words}" if self.writes else 1)

    def log_is_due(self, done: int) -> bool:
        """True if a log line is due, on all processes or on none. Collective."""
        seconds = self.from_first(self.meter.elapsed()) if self.pace.asks(done) else 0.0
        return self.pace.due(done, seconds)

    def from_first(self, value: float) -> float:
        """Returns the first process's number. Collective."""
        return float(self.task.engine.reduce_sum(torch.tensor(value if self.writes else 0.0, dtype=torch.float64)))

    def log(self, done: int) -> str | None:
        """Logs the updates since the last line; returns a reason to stop. Waits for the device. Collective."""
        task, (losses, norms, skipped) = self.task, self.meter.read()
        bad, failure = task.bad_files()
        loss, averaged = self.meter.average(task.mean(losses, skipped), skipped.count(False))
        values = {"loss": loss, "averaged": averaged, "lr": task.learning_rate(done - 1), "epoch": task.epoch(done)}
        seconds = self.meter.log(**values, grad_norm=norms[-1], updates=len(losses), bad_files=bad)
        self.pace.logged(done, seconds := self.from_first(seconds))
        self.doubt_saving(done, seconds)
        if (in_a_row := self.meter.skips(done - len(skipped), skipped, task.files)) >= task.max_skipped:
            # With the weights of a checkpoint since then, the same update would be skipped again.
            good = [step for step in checkpoint.steps(self.checkpoints) if step < done - in_a_row]
            saved = f"Last good checkpoint: update {max(good)} in {self.checkpoints}. " if good else ""
            self.meter.say(  # not saved: the weights may be bad already
                f"stopped: {in_a_row} updates in a row skipped for a non-finite loss or gradient (train.max_skipped). "
                f"{saved or 'There is no checkpoint from before. '}"
                "Try a lower learning rate, clipping or another precision; skipped.jsonl names the images"
            )
            raise SystemExit(1)
        return failure

    def doubt_saving(self, done: int, seconds: float) -> None:
        """Says once that the next checkpoint is far away, now that the time of an update is known."""
        every, rest = self.config.run.save_every, self.task.total - done
        wait = seconds * min(every - done % every, rest)
        if wait > 3600 and not self.doubted:
            self.doubted = True
            self.meter.say(
                f"warning: the next checkpoint comes in {duration(wait)} (run.save_every={every} at {seconds:.3g} s an "
                f"update), and what is trained until then is lost if the run is killed; lower run.save_every to "
                f"{max(1, int(1800 / seconds))}, say"
            )

    def save(self, done: int) -> None:
        """Writes a checkpoint; a full disk is reported and training goes on. Collective."""
        state = self.task.state_dict()
        with self.busy:
            self.writing = True
            self.write(done, state)
            self.writing = False

    def write(self, done: int, state: checkpoint.State) -> None:
        """Writes a checkpoint of a state, which is empty on ranks that do not write."""
        meta = self.task.meta()
        if self.inherited.before:
            meta["inherited"] = self.inherited.before
        if state:
            try:
                checkpoint.save(self.checkpoints, done, state, meta, self.config.run.keep)
            except checkpoint.CheckpointError as error:
                self.meter.say(f"warning: {error}")
                done = done if error.saved else self.saved
        self.saved = done

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """Inside, nothing that is saved changes: lets `save_now` in although the loop holds `busy`."""
        self.busy.release()
        try:
            yield
        finally:
            self.busy.acquire()

    def while_idle(self, batches: Iterable) -> Iterator[Any]:
        """Passes batches on and waits for each while idle."""
        batches = iter(batches)
        while True:
            with self.idle():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def updates(self) -> tuple[int, int]:
        """Returns the updates done, and those in the newest checkpoint."""
        return self.done, self.saved

    def can_save(self) -> bool:
        """True if `save_now` works. A GPU may have updates of a broken collective in its queue."""
        alone = self.task.engine.stage == 0 and self.process.device.type == "cpu"
        return self.process.world == 1 or alone

    def save_now(self) -> None:
        """Saves the last finished update from another thread; training cannot go on afterwards."""
        while not self.busy.acquire(timeout=5.0):  # for good
            if not self.writing:
                return  # an update hangs: what there is may be half of it
        engine = self.task.engine
        engine.rewind()
        engine.saves = True
        self.write(self.done, self.task.state_dict())

    def end(self, done: int, why: str, failure: str | None) -> None:
        """Says why a run ends before it has finished, or with a failure, and ends it."""
        if self.saved != done:
            again = f"continues from {self.saved}" if self.saved else "starts again"
            words = f"update {done} is not saved in {self.checkpoints} ({why}); the same command {again}"
            raise SystemExit(shown(f"train.py: {words}"))
        go_on = "raise it to go on" if failure or why == "run.stop_after" else "the same command continues"
        self.meter.say(f"stopped at update {done} of {self.task.total} ({why}); {go_on}")
        raise SystemExit(1 if failure else 0)


def check_folders(config: Experiment) -> None:
    """Checks where the run folder lies.

    Raises:
        ValueError: the run folder lies among images, to which a run would add its pictures.
    """
    run = Path(os.path.realpath(config.run.dir))
    for name in ("root", "held_out_root", "test"):
        images = getattr(config.data, name, None)
        if images and Path(images).is_dir() and run.is_relative_to(os.path.realpath(images)):
            raise ValueError(
                f"run.dir: expected a folder outside data.{name}={shown(images)}, whose images a run must not add to, "
                f"got {shown(config.run.dir)}"
            )
