"""The training loop around a task."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..config.base import Config, Experiment
from ..config.classify import Finetune, Probe
from ..config.detect import Detect
from ..config.json_form import to_json
from ..config.segment import Segment
from ..engine.engine import StepResult
from ..engine.process import init_distributed
from ..engine.settings import deepspeed_config, resolve_precision
from ..host.records import reason
from ..host.terminal import shown
from ..run import checkpoint
from ..run import folder as runfolder
from ..run.console import announce, duration, say
from ..run.meter import Meter
from ..run.pace import Pace
from ..run.skips import SkippedInARow
from ..run.stop import Stop
from ..run.trace import NAME, Trace
from . import banner
from .classify import FineTuning, LinearProbing
from .detect import Detection
from .inherited_settings import inherit_settings
from .pretrain import Pretraining
from .run_outputs import attempt, check_outputs
from .saver import Saver
from .segment import Segmentation
from .task import Task

TASKS: dict[type[Experiment], Any] = {
    Config: Pretraining,
    Finetune: FineTuning,
    Probe: LinearProbing,
    Detect: Detection,
    Segment: Segmentation,
}
"""The subclass of `Task` for each class of config; the constructor takes a config and a process."""


class Ending(NamedTuple):
    """The reason why a run ends.

    Attributes:
        reason: the reason in a few words.
        failed: True if the run ends because of too many bad files.
    """

    reason: str
    failed: bool = False


class Trainer:
    """The loop around a task: train, log, save, evaluate, stop.

    Args:
        config: config of the run.
        given: the value of each setting on the command line, as typed, by name.
        stop: collector of requests to stop.

    Attributes:
        first: updates done before this start.
        last: updates done when this start ends as planned.
        usual_ending: the reason to end after update `last`.

    Raises:
        ValueError: config, data or run folder do not fit.
        FolderError: the run folder cannot be used.
    """

    def __init__(self, config: Experiment, given: Mapping[str, str], stop: Stop):
        self.folder, self.stop = Path(config.run.dir), stop
        self.checkpoints = self.folder / "checkpoints"
        kind = TASKS[type(config)]
        kind.check_packages(config)
        self.process = init_distributed(config.train.device, config.train.deterministic)
        stop.join(self.process.rank, self.process.world, config.train.timeout)
        self.writes = self.process.rank == 0
        # These checks come before anything is read or created.
        check_folders(config)
        deepspeed_config(config, self.process.world, resolve_precision(config.train, self.process.device))
        with runfolder.starting(self.folder) if self.writes else contextlib.nullcontext() as self.lock:
            check_outputs(self.folder)
            inherited = inherit_settings(config, given)
            self.config = config = inherited.config
            self.task: Task = kind(config, self.process)
            self.first = self.task.resume(self.checkpoints)
            if self.first > self.task.total:
                raise ValueError(
                    f"{self.checkpoints} holds update {self.first}, but train.epochs={config.train.epochs:g} ends at "
                    f"{self.task.total}: raise train.epochs, or choose another run.dir"
                )
        self.last = min(self.task.total, config.run.stop_after or self.task.total)
        self.usual_ending = Ending("finished" if self.last == self.task.total else "run.stop_after")
        meta = {"inherited": inherited.before} if inherited.before else {}
        self.saver = Saver(self.task, self.checkpoints, self.first, meta, self.say)
        self.pace, self.skipped = Pace(self.first, config.run.log_every), SkippedInARow()
        self.trace: Trace | None = None
        self.warned_of_saving = False
        if self.writes:
            facts = banner.describe(self.task)
            if inherited.words:
                facts["inherited"] = inherited.words
            announce(self.folder, facts | {"start": f"update {self.first}"}, to_json(config))
            try:
                self.task.manifest.save(str(self.folder / "manifest.json"))
            except (OSError, ValueError) as error:
                say(f"warning: manifest.json could not be written ({reason(error)}); training goes on")

    def fit(self) -> None:
        """Trains until the last update or a request to stop, and makes the results of a finished run.

        Raises:
            SystemExit: the run ends before it has finished, or without a result. The status is 0 if the same command
                continues the run.
        """
        task, run = self.task, self.config.run
        ending = None
        if run.trace and self.writes:
            self.trace = Trace(self.folder / NAME, self.first, say)
        self.stop.watch(self.saver)
        with self.open_meter() as self.meter:
            self.warn()
            batches = task.batches(self.first, self.last)
            for step in range(self.first, self.last):
                micro_batches = self.meter.waiting(islice(batches, task.engine.accumulation))
                result = self.saver.train_step(step, micro_batches)
                self.meter.update(result.loss, result.grad_norm, result.skipped)
                done = step + 1
                ending = self.reason_to_stop(done)
                with self.meter.paused():  # evaluation and saving do not count as training time
                    self.record_trace(step, result)
                    if self.log_is_due(done, ending, result.skipped):
                        ending = self.log(done) or ending
                    if ending or done % run.save_every == 0:
                        self.saver.save()
                    if self.evaluation_is_due(done):
                        self.evaluate(done)
                if ending:
                    break
            self.stop.settle()
            self.end(ending or self.usual_ending)

    def open_meter(self) -> Meter:
        """Opens the meter of this run."""
        task = self.task
        place = self.folder, self.first, task.total, self.config, self.process.device, self.writes
        return Meter(*place, task.engine.accumulation)

    def say(self, text: str) -> None:
        """Prints a line above the progress bar, on rank 0."""
        self.meter.say(text)

    def warn(self) -> None:
        """Prints warnings about data and settings."""
        for line in (*self.task.notes, *banner.warnings(self.task)):
            self.say(f"warning: {line}")

    def reason_to_stop(self, done: int) -> Ending | None:
        """Returns why the run ends after this update, or None; the same on every process. Collective."""
        if done == self.last:
            return self.usual_ending
        requested = self.stop.poll()
        return Ending(requested) if requested else None

    def record_trace(self, step: int, result: StepResult) -> None:
        """Writes the line of one update to the bit trace, if there is one. Collective."""
        if self.config.run.trace:
            fingerprint = self.task.fingerprint(step, result)
            if self.trace:
                self.trace.record(fingerprint)

    def log_is_due(self, done: int, ending: Ending | None, skipped: Tensor) -> bool:
        """True if a log line is due, on all processes or on none. Collective.

        Args:
            done: updates done.
            ending: the reason to end after this update.
            skipped: () bool, True if this update was skipped.
        """
        if self.skipped.add(skipped) >= self.task.max_skipped or ending:
            return True
        seconds = self.process.broadcast_number(self.meter.elapsed()) if self.pace.needs_seconds(done) else 0.0
        return self.pace.is_due(done, seconds)

    def log(self, done: int) -> Ending | None:
        """Logs the updates since the last line; returns a reason to stop. Waits for the device. Collective."""
        task, (losses, norms, skipped) = self.task, self.meter.read()
        bad, failure = task.bad_files()
        loss, averaged = self.meter.average(task.mean(losses, skipped), skipped.count(False))
        values = {"loss": loss, "averaged": averaged, "lr": task.learning_rate(done - 1), "epoch": task.epoch(done)}
        seconds = self.meter.log(**values, grad_norm=norms[-1], updates=len(losses), bad_files=bad)
        seconds = self.process.broadcast_number(seconds)
        self.pace.note_line(done, seconds)
        self.warn_of_saving(done, seconds)
        in_a_row = self.meter.log_skips(done - len(skipped), skipped, task.files)
        if in_a_row >= task.max_skipped:
            self.give_up(done, in_a_row)
        return Ending(failure, failed=True) if failure else None

    def give_up(self, done: int, in_a_row: int) -> None:
        """Ends the run without saving, because its weights may be bad.

        Args:
            done: updates done.
            in_a_row: updates in a row that were skipped, up to the last one.
        """
        # A checkpoint saved during the skipped updates would lead to the same skips.
        good = [step for step in checkpoint.steps(self.checkpoints) if step < done - in_a_row]
        saved = "There is no earlier checkpoint. "
        if good:
            saved = f"Last good checkpoint: update {max(good)} in {self.checkpoints}. "
        self.say(
            f"stopped: {in_a_row} updates in a row skipped for a non-finite loss or gradient (train.max_skipped). "
            f"{saved}Try a lower learning rate, clipping or another precision; skipped.jsonl names the images"
        )
        raise SystemExit(1)

    def warn_of_saving(self, done: int, seconds: float) -> None:
        """Warns once if the next checkpoint is far away.

        Args:
            done: updates done.
            seconds: time of an update.
        """
        every, rest = self.config.run.save_every, self.task.total - done
        wait = seconds * min(every - done % every, rest)
        if wait > 3600 and not self.warned_of_saving:
            self.warned_of_saving = True
            self.say(
                f"warning: the next checkpoint comes in {duration(wait)} (run.save_every={every} at {seconds:.3g} s an "
                f"update). If the run is killed before, that training is lost; lower run.save_every, for example to "
                f"{max(1, int(1800 / seconds))}"
            )

    def evaluation_is_due(self, done: int) -> bool:
        """True if the task is evaluated after this update. The last evaluation is part of `Task.finish`."""
        every = self.config.run.evaluate_every
        return self.task.evaluates and bool(every) and done % every == 0 and done < self.task.total

    def evaluate(self, done: int) -> None:
        """Evaluates the module; a failure only prints a warning. Collective."""
        with attempt("the evaluation", self.meter, "training goes on"):
            self.task.evaluate(done, self.meter)

    def end(self, ending: Ending) -> None:
        """Ends the run: makes the results if it has finished, else says why it ends.

        Raises:
            SystemExit: see `fit`.
        """
        task, saver = self.task, self.saver
        if self.trace:
            self.trace.close()
        finished = saver.done == task.total and not ending.failed
        # Only rank 0 knows if its checkpoint was written, and all processes make the results.
        finished = finished and self.process.broadcast_number(saver.saved) == saver.done
        try:
            if finished:
                with self.stop.finishing():
                    task.finish(self.meter)
            elif self.writes:
                self.explain(ending)
        finally:
            task.close()
        if finished and (missing := task.outputs.missing):
            words = f"finished and saved, but without {', '.join(missing)}: the same command tries again"
            raise SystemExit(f"train.py: {words}" if self.writes else 1)

    def explain(self, ending: Ending) -> None:
        """Says why the run ends before it has finished, or with a failure, and ends this process.

        Raises:
            SystemExit: always.
        """
        done, saved = self.saver.updates()
        if saved != done:
            again = f"continues from {saved}" if saved else "starts again"
            words = f"update {done} is not saved in {self.checkpoints} ({ending.reason}); the same command {again}"
            raise SystemExit(shown(f"train.py: {words}"))
        go_on = "the same command continues"
        if ending.failed or ending.reason == "run.stop_after":
            go_on = "raise it to go on"
        self.say(f"stopped at update {done} of {self.task.total} ({ending.reason}); {go_on}")
        raise SystemExit(1 if ending.failed else 0)


def check_folders(config: Experiment) -> None:
    """Checks that the run folder, which gets pictures, lies outside the folders of images.

    Raises:
        ValueError: the run folder lies among images.
    """
    run = Path(os.path.realpath(config.run.dir))
    for name in ("root", "held_out_root", "test"):
        images = getattr(config.data, name, None)
        if images and Path(images).is_dir() and run.is_relative_to(os.path.realpath(images)):
            raise ValueError(
                f"run.dir: expected a folder outside data.{name}={shown(images)}, whose images a run must not add to, "
                f"got {shown(config.run.dir)}"
            )
