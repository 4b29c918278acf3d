"""Log lines of a run: the progress bar, metrics.jsonl, skipped.jsonl and TensorBoard events.

Losses and norms stay on the device between log lines. The host waits for the device only when a log line reads them.
"""

from __future__ import annotations

import contextlib
import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from torch import Tensor

from ..config.base import Experiment
from ..host.records import Records, Row, is_count, reason
from ..host.terminal import shown
from .console import console, duration, say
from .metrics import is_sound, read_metrics, verdict
from .pace import Heartbeat, LossWindow, RiseDetector

T = TypeVar("T")


def peak_memory(device: torch.device) -> int:
    """Returns the peak memory in bytes: allocated on a GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Files:
    """The record files of a run, written by rank 0."""

    def __init__(self, folder: Path, first: int):
        self.metrics = Records(folder / "metrics.jsonl", is_sound, lambda row: row["step"] <= first, say)
        self.skipped = Records(folder / "skipped.jsonl", _is_skip, lambda row: row["step"] < first, say)

    def close(self) -> None:
        self.metrics.close()
        self.skipped.close()


class Meter:
    """A context manager that turns the results of updates into log lines.

    Args:
        folder: folder of metrics.jsonl and TensorBoard events; lines of updates after `first` are dropped.
        first: number of updates before this run starts.
        total: updates in the whole run.
        config: config of the run.
        device: device that trains.
        writes: True if this process prints and writes (rank 0).
        accumulation: micro-batches in an update.
    """

    def __init__(
        self,
        folder: Path,
        first: int,
        total: int,
        config: Experiment,
        device: torch.device,
        writes: bool,
        accumulation: int = 1,
    ):
        self.step, self.total, self.device, self.writes = first, total, device, writes
        self.samples, self.accumulation = config.train.global_batch, accumulation
        self.folder, self.optim, self.tensorboard = folder, config.optim, config.run.tensorboard
        self.pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self.waited = 0.0
        self.since = time.perf_counter()
        self.skipped = self.skips_in_a_row = 0
        self.micro_batches, self.waits, self.between, self.update_since = 0, False, True, self.since
        self.heartbeat = Heartbeat(self.print_state)
        self.failing: set[str] = set()
        self.files = _Files(folder, first) if writes else None
        rows = read_metrics(folder) if writes else []
        self.rise, self.window = RiseDetector(rows), LossWindow(config.run.log_every, rows, first)
        self.events: Any = None  # TensorBoard's writer, which has no types
        if writes:
            self.write_events({})
        self.progress: Progress | None = None
        self.bar = TaskID(0)
        if writes and console.is_terminal:
            columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
            self.progress = Progress(*columns, console=console)
            self.bar = self.progress.add_task("", total=total, completed=first)

    def __enter__(self) -> Meter:
        if self.progress:
            self.progress.start()
        if self.writes:
            self.heartbeat.start()
        return self

    def __exit__(self, *_) -> None:
        self.heartbeat.stop()
        if self.progress:
            self.progress.stop()
        if self.events:
            with self.attempt("TensorBoard's events"):
                self.events.close()
        if self.files:
            self.files.close()

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields the batches, and measures the time that the loop waits for them."""
        batches, self.between = iter(batches), False
        while True:
            start, self.waits = time.perf_counter(), True
            batch = next(batches, None)
            self.waited, self.waits = self.waited + time.perf_counter() - start, False
            if batch is None:
                return
            yield batch
            self.micro_batches += 1  # the caller asks for the next batch, so it has trained on this batch

    def update(self, loss: Tensor, grad_norm: Tensor, skipped: Tensor) -> None:
        """Records the result of one update, without reading from the device.

        Args:
            loss: () loss of this process.
            grad_norm: () gradient norm.
            skipped: () bool, True if the update was skipped.
        """
        self.step, self.micro_batches, self.update_since = self.step + 1, 0, time.perf_counter()
        self.between = True
        self.pending.append((loss.detach(), grad_norm.detach(), skipped.detach()))
        if self.progress:
            self.progress.update(self.bar, completed=self.step)

    def read(self) -> tuple[list[float], list[float], list[bool]]:
        """Returns losses, gradient norms and skip flags since the last read. Waits for the device."""
        pending, self.pending = self.pending, []
        loss, norm, skipped = (torch.stack([p[i].float() for p in pending]).tolist() for i in range(3))
        return loss, norm, [bool(s) for s in skipped]

    def average(self, loss: float, updates: int) -> tuple[float, int]:
        """Returns (loss of a log line, number of updates in its mean); see `LossWindow.mean`."""
        return self.window.mean(loss, updates, self.step)

    def elapsed(self) -> float:
        """Returns the seconds of training since the start or the last log line."""
        return time.perf_counter() - self.since

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pauses the throughput clock during evaluation and saving, except while a log line reads the device."""
        since = time.perf_counter()
        yield
        self.since += time.perf_counter() - max(since, self.since)

    def log(self, **values: float) -> float:
        """Writes one log line: `values`, speed, time left, memory and the share of waiting for images.

        Args:
            values: loss, lr, grad_norm, epoch, bad_files; averaged: number of updates in the mean loss; updates: number
                of updates since the last line.

        Returns:
            Seconds per update.
        """
        elapsed = time.perf_counter() - self.since
        seconds = elapsed / values["updates"]
        row = {"step": self.step} | values
        row["images_per_s"] = self.samples / seconds
        row["data_wait"] = self.waited / elapsed
        row["peak_bytes"] = peak_memory(self.device)
        row["seconds_left"] = seconds * (self.total - self.step)
        self.since, self.waited = self.since + elapsed, 0.0
        self.write(row)
        skips = f"  {self.skipped} skipped" if self.skipped else ""
        bad = f"  {row['bad_files']} bad files replaced" if row["bad_files"] else ""
        text = (
            f"loss {row['loss']:.4f}  lr {row['lr']:.2e}  {row['images_per_s']:.1f} images/s  "
            f"{duration(row['seconds_left'])} left  {row['peak_bytes'] / 2**30:.2f} GiB  "
            f"data wait {row['data_wait']:.0%}{skips}{bad}"
        )
        if self.progress:
            self.heartbeat.beat()
            self.progress.update(self.bar, description=text)
        else:
            self.say(f"{self.step}/{self.total}  {text}")
        if risen := self.rise.notice(row["loss"]):
            start, now = risen
            self.say(
                f"warning: the loss has risen to {now:.4g} from {start:.4g} at the start: training diverges. Lower "
                f"optim.blr (now {self.optim.blr:g}), raise optim.warmup_epochs (now {self.optim.warmup_epochs:g}), or "
                f"limit gradients with optim.clip (now {self.optim.clip})"
            )
        return seconds

    def print_state(self, seconds: float) -> None:
        """Prints the state of the current update, for runs with rare log lines.

        Args:
            seconds: time since the last line.
        """
        update, ago = f"update {self.step + 1} of {self.total}", f"the last line was {duration(seconds)} ago"
        if self.between:
            self.print(f"update {self.step} of {self.total} is done: evaluating or saving; {ago}")
        elif self.waits:
            self.print(f"{update}: waiting for images; {ago}")
        elif not self.micro_batches:
            self.print(f"{update}: its first micro-batch is under way; {ago}")
        else:
            spent = time.perf_counter() - self.update_since
            done, all = self.micro_batches, self.accumulation
            update_takes = duration(spent / done * all)
            self.print(f"{update}: {done} of {all} micro-batches in {duration(spent)}; an update takes {update_takes}")

    def log_held_out(self, loss: float, trivial: dict[str, float]) -> None:
        """Writes the loss on held-out images, and the loss of each trivial predictor on them."""
        self.write({"step": self.step, "held_out": loss, "trivial": trivial})
        beside = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in trivial.items())
        found = f"held-out loss {loss:.4f}; trivial predictors: {beside}; {verdict(loss, trivial)}"
        self.say(f"{self.step}/{self.total}  {found}")

    def log_test(self, scores: dict[str, Any], words: str) -> None:
        """Writes the test scores that are numbers, and prints all scores as `words`."""
        numbers = {f"test_{name}": value for name, value in scores.items() if isinstance(value, int | float)}
        self.write({"step": self.step} | numbers)
        self.say(f"{self.step}/{self.total}  test images: {words}")

    def log_skips(self, first: int, skipped: list[bool], files: Callable[[int], list[str]]) -> int:
        """Names the images of skipped updates; returns the present number of consecutive skipped updates.

        Args:
            first: number of the first update in `skipped`.
            skipped: True for each update that was skipped.
            files: function that returns the images of an update.
        """
        for step, skip in enumerate(skipped, start=first):
            self.skips_in_a_row = self.skips_in_a_row + 1 if skip else 0
            if not skip:
                continue
            self.skipped += 1
            images = files(step)
            if self.files:
                self.files.skipped.append({"step": step, "images": images})
            more = f" and {len(images) - 3} more (skipped.jsonl)" if len(images) > 3 else ""
            self.say(f"update {step} skipped: non-finite loss or gradient on {', '.join(map(shown, images[:3]))}{more}")
        return self.skips_in_a_row

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        self.heartbeat.beat()
        self.print(text)

    def print(self, text: str) -> None:
        """Prints a line that does not count as a sign of life."""
        if self.writes:
            say(text)

    def write(self, row: dict) -> None:
        """Appends a row to metrics.jsonl and TensorBoard; a non-finite number becomes null."""
        if not self.files:
            return
        row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self.files.metrics.append(row)
        self.write_events(row)

    def write_events(self, row: Row) -> None:
        """Adds a row's numbers to TensorBoard's events; the next row replaces a writer that failed."""
        if not self.tensorboard:
            return
        with self.attempt("TensorBoard's events"):
            try:
                if self.events is None:
                    from torch.utils.tensorboard import SummaryWriter

                    self.events = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step)
                for name, value in row.items():
                    if name != "step" and isinstance(value, int | float):
                        self.events.add_scalar(name, value, row["step"])
            except OSError:
                self.events = None
                raise

    @contextlib.contextmanager
    def attempt(self, work: str) -> Iterator[None]:
        """Turns a failure to write a file into one warning. Training must not depend on the file.

        Args:
            work: name of the file, for the warning.
        """
        try:
            yield
        except (OSError, ValueError) as error:
            if work not in self.failing:
                self.say(f"warning: {work} could not be written ({reason(error)}); training goes on")
            self.failing.add(work)
        else:
            self.failing.discard(work)


def _is_skip(row: Row) -> bool:
    return is_count(row.get("step")) and isinstance(row.get("images"), list)
