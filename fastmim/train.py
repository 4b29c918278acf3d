"""Trains what a config describes:  deepspeed fastmim/train.py CONFIG [--section.field VALUE ...]"""

import os
import sys

if __name__ == "__main__" and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
    sys.path[0] = os.path.dirname(sys.path[0])  # a script's own folder would shadow the standard library

import time
from itertools import islice
from pathlib import Path

import fastmim_kernels
from fastmim import checkpoint
from fastmim.analysis.curve import plot_curve
from fastmim.analysis.predictors import trivial_losses
from fastmim.analysis.reconstruction import reconstruction_grid, save_png
from fastmim.bittrace import Trace
from fastmim.config import Config, load, override, to_json
from fastmim.data.quarantine import BadFilesError
from fastmim.engine import init_distributed
from fastmim.metrics import Meter, announce
from fastmim.stop import Stop, launchers
from fastmim.tasks.export import export_encoder, how_to_load
from fastmim.tasks.pretrain import Pretrain

USAGE = """usage: deepspeed fastmim/train.py CONFIG [--section.field VALUE ...]    (or python instead of deepspeed)
CONFIG is a Python file; configs/README.md lists them. CONFIG --help lists every setting with its default and unit."""


def main(argv: list[str]) -> None:
    watched = launchers()
    argv = [arg for arg in argv if not arg.startswith("--local_rank")]  # from the launcher, which also sets LOCAL_RANK
    if not argv or argv[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        raise SystemExit(0 if {"-h", "--help"} & set(argv) else 2)
    try:
        config = override(load(argv[0]), argv[1:], prog="train.py")
        fastmim_kernels.use_reference(config.train.kernels == "reference")
        trainer = Trainer(config)
    except (ValueError, OSError, checkpoint.FolderError) as error:  # it cannot be done; nothing has started
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"train.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    try:
        trainer.fit(Stop(watched))
    except BadFilesError as error:
        raise SystemExit(f"train.py: {error}; saved: update {trainer.saved}") from None


class Trainer:
    """The loop around a task: train, log, look, save, stop."""

    def __init__(self, config: Config):
        self.config, self.folder = config, Path(config.run.dir)
        self.checkpoints = self.folder / "checkpoints"
        self.process = init_distributed(config.train.device, config.train.deterministic)
        self.writes = self.process.rank == 0
        self.lock = checkpoint.lock(self.folder) if self.writes else None
        self.task = Pretrain(config, self.process)
        self.first = self.task.resume(self.checkpoints)
        self.saved, self.trivial = self.first, None
        if self.writes:
            announce(self.folder, self.task.describe() | {"start": f"update {self.first}"}, to_json(config))
            self.task.manifest.save(str(self.folder / "manifest.json"))

    def fit(self, stop: Stop) -> None:
        task, run = self.task, self.config.run
        last = min(task.total, run.stop_after or task.total)
        batches = task.batches(self.first, last)
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
                if task.held_out and (done % run.evaluate_every == 0 or why == "finished"):
                    self.evaluate(done)
                if done % run.save_every == 0 or why:
                    self.save(done)
                self.meter.exclude(pause)
                if why:
                    break
        stop.close()
        task.close()
        if self.writes:
            self.finish(done, why, failure)

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

    def evaluate(self, done: int) -> None:
        """Loss and pictures on the held-out images, beside what trivial predictors reach there."""
        task, pred = self.task, self.task.predict_held_out()
        if not self.writes:
            return
        self.trivial = self.trivial or trivial_losses(task.mim.objective, task.held_out.images, task.held_out.mask)
        self.meter.evaluated(task.held_out.loss(task.mim, pred), self.trivial)
        few = task.held_out.first(8)
        grid = reconstruction_grid(task.mim.objective, few.images, few.mask, pred[:8])
        with self.meter.attempt("the reconstruction grid"):
            save_png(grid, self.folder / f"grids/{done:08d}.png")

    def save(self, done: int) -> None:
        """Writes a checkpoint; a full disk is reported and training goes on. Collective."""
        state = self.task.engine.state_dict()
        if self.writes:
            meta = {"config": to_json(self.config), "manifest": self.task.manifest.hash}
            try:
                checkpoint.save(self.checkpoints, done, state, meta, self.config.run.keep)
            except checkpoint.CheckpointError as error:
                self.meter.say(f"warning: {error}")
                done = done if error.saved else self.saved
        self.saved = done

    def finish(self, done: int, why: str, failure: str | None) -> None:
        """Says how the run ended; a finished one leaves its encoder and its curve."""
        if self.saved != done:
            raise SystemExit(f"train.py: update {done} is not saved; the same command continues from {self.saved}")
        if failure or done < self.task.total:
            go_on = "raise it to go on" if failure or why == "run.stop_after" else "the same command continues"
            self.meter.say(f"stopped at update {done} of {self.task.total} ({why}); {go_on}")
            raise SystemExit(1 if failure else 0)
        encoder = export_encoder(self.config, checkpoint.load(self.checkpoints).state["model"], self.folder / "encoder")
        self.meter.say(f"loss curve       {plot_curve(self.folder)}\nreconstructions  {self.folder / 'grids'}")
        self.meter.say(f"encoder          {how_to_load(self.config, encoder)}  (checked: bit-equal features)")


if __name__ == "__main__":
    main(sys.argv[1:])
