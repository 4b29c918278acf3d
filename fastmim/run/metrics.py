"""Progress line, log lines, metrics.jsonl and TensorBoard events of a run. May import L1 and L0.

Losses and norms stay on the device between log lines; reading them there is the only time the host waits for it.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from ..config.base import Config
from ..host.records import Records, Row, is_count, put, read_rows, reason
from ..host.terminal import shown
from .pace import Heartbeat, Rise, Window

console = Console(highlight=False, soft_wrap=True)
NOT_FINITE = "nothing: the last loss is not finite"
_MOST_PREDICTORS, _LONGEST_NAME = 10, 40  # in a row of metrics.jsonl; fastmim writes three short names


def peak_memory(device: torch.device) -> int:
    """Returns the peak bytes: allocated on a GPU since the start, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def duration(seconds: float) -> str:
    """Returns seconds in words: '1h02m' for 3725."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def announce(folder: Path, facts: dict[str, str], config: dict) -> None:
    """Prints the facts of a run; writes facts.json (as printed) and config.json (resolved) into its folder."""
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        say(f"{name:<{width}}{shown(value)}")
    for name, value in (("facts", facts), ("config", config)):
        put(folder / f"{name}.json", json.dumps(value, indent=2) + "\n", say)


def say(text: str) -> None:
    """Prints lines, above the progress bar if there is one; names from outside appear as `shown`."""
    console.print("\n".join(map(shown, text.split("\n"))), markup=False)


class Meter:
    """Collects per-update results on the device and turns them into one line every so often.

    Args:
        folder: where metrics.jsonl (and TensorBoard events) go; lines of updates after `first` are dropped.
        first, total: updates done before, and in the whole run.
        accumulation: micro-batches in an update.
        writes: True if this process prints and writes (rank 0).
    """

    def __init__(
        self,
        folder: Path,
        first: int,
        total: int,
        config: Config,
        device: torch.device,
        writes: bool,
        accumulation: int = 1,
    ):
        self.step, self.total, self.device, self.writes = first, total, device, writes
        self.samples, self.accumulation = config.train.global_batch, accumulation
        self.folder = folder
        self.pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self.waited = 0.0
        self.since = time.perf_counter()
        self.skipped = self.skips_in_a_row = 0
        self.micro_batches, self.waits, self.between, self.update_since = 0, False, True, self.since
        self.optim = config.optim
        self.rise, self.window = Rise([]), Window(config.run.log_every, [], first)
        self.heartbeat = Heartbeat(self.still_there)
        self.failing: set[str] = set()
        self.progress = self.rows = self.events = None
        if not writes:
            return
        self.rows = Records(folder / "metrics.jsonl", _is_sound, lambda row: row["step"] <= first, say)
        self.skipped_rows = Records(folder / "skipped.jsonl", _is_skip, lambda row: row["step"] < first, say)
        rows = read_metrics(folder)
        self.rise, self.window = Rise(rows), Window(config.run.log_every, rows, first)
        self.tensorboard = config.run.tensorboard
        self.write_events({})
        if console.is_terminal:
            self.progress = Progress(
                BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), console=console
            )
            self.task = self.progress.add_task("", total=total, completed=first)

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
        if self.rows:
            self.rows.close()
            self.skipped_rows.close()

    def waiting(self, batches: Iterable) -> Iterator:
        """Passes batches on, timing how long the loop waits for them."""
        batches, self.between = iter(batches), False
        while True:
            start, self.waits = time.perf_counter(), True
            batch = next(batches, None)
            self.waited, self.waits = self.waited + time.perf_counter() - start, False
            if batch is None:
                return
            yield batch
            self.micro_batches += 1  # asked for the next one: this one is trained on

    def update(self, loss: Tensor, grad_norm: Tensor, skipped: Tensor) -> None:
        """Notes one update; nothing is read from the device."""
        self.step, self.micro_batches, self.update_since = self.step + 1, 0, time.perf_counter()
        self.between = True
        self.pending.append((loss.detach(), grad_norm.detach(), skipped.detach()))
        if self.progress:
            self.progress.update(self.task, completed=self.step)

    def read(self) -> tuple[list[float], list[float], list[bool]]:
        """Returns losses, gradient norms and skip flags since the last read: waits for the device."""
        pending, self.pending = self.pending, []
        loss, norm, skipped = (torch.stack([p[i].float() for p in pending]).tolist() for i in range(3))
        return loss, norm, [bool(s) for s in skipped]

    def average(self, loss: float, updates: int) -> tuple[float, int]:
        """Returns the loss of a log line and of how many updates it is the mean; see `Window`."""
        return self.window.mean(loss, updates, self.step)

    def elapsed(self) -> float:
        """Returns the seconds since the start, or since the last log line."""
        return time.perf_counter() - self.since

    def log(self, **values: float) -> float:
        """Writes one line of `values` with speed, time left, memory and the share of time spent waiting for data.

        Args:
            values: loss, lr, grad_norm, epoch, bad_files; averaged = updates that the loss is the mean of; updates =
                how many since the last line.

        Returns: seconds an update.
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
            self.progress.update(self.task, description=text)
        else:
            self.say(f"{self.step}/{self.total}  {text}")
        if found := self.rise.notice(row["loss"]):
            start, now = found
            self.say(
                f"warning: the loss has risen to {now:.4g} from {start:.4g} at the start: training diverges. Lower "
                f"optim.blr (now {self.optim.blr:g}), raise optim.warmup_epochs (now {self.optim.warmup_epochs:g}), or "
                f"limit gradients with optim.clip (now {self.optim.clip})"
            )
        return seconds

    def still_there(self, seconds: float) -> None:
        """Says what has been done since the last line, where lines are far apart."""
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

    def evaluated(self, loss: float, trivial: dict[str, float]) -> None:
        """Writes the loss on held-out images beside what trivial predictors reach on them."""
        self.write({"step": self.step, "held_out": loss, "trivial": trivial})
        beside = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in trivial.items())
        found = f"held-out loss {loss:.4f}; trivial predictors: {beside}; {verdict(loss, trivial)}"
        self.say(f"{self.step}/{self.total}  {found}")

    def tested(self, scores: dict[str, Any], words: str) -> None:
        """Writes the scores on the test images that are numbers, and says `words`."""
        numbers = {f"test_{name}": value for name, value in scores.items() if isinstance(value, int | float)}
        self.write({"step": self.step} | numbers)
        self.say(f"{self.step}/{self.total}  test images: {words}")

    def skips(self, first: int, skipped: list[bool], files: Callable[[int], list[str]]) -> int:
        """Names the images of skipped updates; returns how many were skipped in a row, up to the last.

        Args:
            first: the update that `skipped` starts with.
            files: the images of an update.
        """
        for step, skip in enumerate(skipped, start=first):
            self.skips_in_a_row = self.skips_in_a_row + 1 if skip else 0
            if not skip:
                continue
            self.skipped += 1
            images = files(step)
            if self.writes:
                self.skipped_rows.append({"step": step, "images": images})
            more = f" and {len(images) - 3} more (skipped.jsonl)" if len(images) > 3 else ""
            self.say(f"update {step} skipped: non-finite loss or gradient on {', '.join(map(shown, images[:3]))}{more}")
        return self.skips_in_a_row

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        self.heartbeat.beat()
        self.print(text)

    def print(self, text: str) -> None:
        if self.writes:
            say(text)

    def write(self, row: dict) -> None:
        """Appends a row to metrics.jsonl, a non-finite number as null, and to TensorBoard."""
        if not self.writes:
            return
        row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self.rows.append(row)
        self.write_events(row)

    def write_events(self, row: Row) -> None:
        """Adds a row's numbers to TensorBoard's events; a writer that failed is replaced at the next row."""
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
    def attempt(self, what: str) -> Iterator[None]:
        """Inside, something is written that no training depends on: a failure costs one warning, not the run."""
        try:
            yield
        except (OSError, ValueError) as error:
            if what not in self.failing:
                self.say(f"warning: {what} could not be written ({reason(error)}); training goes on")
            self.failing.add(what)
        else:
            self.failing.discard(what)

    def exclude(self, since: float) -> None:
        """Pauses the speed's clock from `since` to now (evaluation, saving), except what a log line covered."""
        self.since += time.perf_counter() - max(since, self.since)


def read_metrics(folder: Path) -> list[Row]:
    """Returns the readable rows of a run's metrics.jsonl; damaged lines are left out."""
    return read_rows(folder / "metrics.jsonl", _is_sound)


def _is_sound(row: Row) -> bool:
    """True if a row of metrics.jsonl holds what its readers rely on."""
    trivial = row.get("trivial", {})
    return (
        is_count(row.get("step"))
        and all(value is None or _is_number(value) for name, value in row.items() if name != "trivial")
        and (
            "images_per_s" not in row
            or all(_is_number(row.get(name)) and row[name] > 0 for name in ("images_per_s", "updates", "peak_bytes"))
        )
        and ("averaged" not in row or is_count(row["averaged"]))
        and ("held_out" not in row or bool(trivial))
        and isinstance(trivial, dict)
        and len(trivial) <= _MOST_PREDICTORS
        and all(len(name) <= _LONGEST_NAME and name.isidentifier() for name in trivial)
        and all(map(_is_number, trivial.values()))
    )


def _is_skip(row: Row) -> bool:
    return is_count(row.get("step")) and isinstance(row.get("images"), list)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def spent(folder: Path, samples: int) -> tuple[float, int]:
    """Returns a run's hours of training and peak bytes, over all its continuations, from its metrics.jsonl.

    Args:
        samples: images of an update. Hours are without evaluation and saving.
    """
    rows = [row for row in read_metrics(folder) if "images_per_s" in row]
    seconds = sum(row["updates"] * samples / row["images_per_s"] for row in rows)
    return seconds / 3600, max((row["peak_bytes"] for row in rows), default=0)


def verdict(loss: float, trivial: dict[str, float]) -> str:
    """Says which trivial predictors a loss is below."""
    if not math.isfinite(loss):
        return "the loss is not finite"
    names = {name.replace("_", " "): value for name, value in sorted(trivial.items(), key=lambda item: item[1])}
    beaten = [name for name, value in names.items() if loss < value]
    others = [name for name in names if name not in beaten]
    if not others:
        return f"{1 - loss / names[beaten[0]]:.0%} below {beaten[0]}, the best of them"
    if not beaten:
        return f"below none of them; {_below(loss, names[others[-1]])} {others[-1]}"
    return f"below {' and '.join(beaten)}, not yet below {' and '.join(others)}"


def learnt(folder: Path) -> str:
    """Says in words how far a run's last loss is from the trivial predictors, from its metrics.jsonl."""
    rows = read_metrics(folder)
    tests = [row for row in rows if "held_out" in row]
    losses = [row["loss"] for row in rows if "loss" in row]
    if not tests and not losses:
        return "unknown: metrics.jsonl holds no loss"
    if not tests:
        loss = losses[-1]
        if loss is None:
            return NOT_FINITE
        return f"loss {loss:.4f} on training images; there are no held-out images to compare it on"
    loss, trivial = tests[-1]["held_out"], tests[-1]["trivial"]
    if loss is None:
        return NOT_FINITE
    beside = ", ".join(
        f"{_below(loss, value)} {name.replace('_', ' ')} ({value:.4f})"
        for name, value in sorted(trivial.items(), key=lambda item: item[1])
    )
    return f"held-out loss {loss:.4f}: {beside}"


def _below(loss: float, value: float) -> str:
    """Compares two losses in words: '10.0 % below' for 0.9 and 1."""
    if not value:  # of held-out images without any contrast
        return "at" if loss == value else "above"
    return f"{abs(1 - loss / value):.1%} {'below' if loss < value else 'above'}".replace("%", " %")
