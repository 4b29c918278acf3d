"""Timing of log lines, the mean loss between them, and warnings about a rising loss."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

MINUTE = 60.0
_SOON = 25.0  # seconds; the first line comes within twice this time
_LINES = 3  # log lines over which a rise is smoothed
_MARGIN = 1.25  # multiple of the first line's loss that counts as a rise


class Pace:
    """A rule for the updates after which a log line is due: multiples of `every`, or one a minute.

    Every process must reach the same decision, so all processes pass the same arguments. Seconds come from rank 0.

    Args:
        first: updates done before.
        every: updates between log lines, `run.log_every`.
    """

    def __init__(self, first: int, every: int):
        self._first, self._every = first, every
        self._next: int | None = None

    def needs_seconds(self, done: int) -> bool:
        """True if `is_due` needs the seconds since the start.

        This holds before the first line, at powers of two.
        """
        since = done - self._first
        return self._next is None and since & (since - 1) == 0 and done % self._every != 0

    def is_due(self, done: int, seconds: float = 0.0) -> bool:
        """True if a log line is due.

        Args:
            done: updates done.
            seconds: seconds since the start, if `needs_seconds` is true.
        """
        return done % self._every == 0 or seconds > _SOON or (self._next is not None and done >= self._next)

    def note_line(self, done: int, seconds: float) -> None:
        """Records a log line after `done` updates, and the seconds per update."""
        self._next = done + max(1, int(MINUTE / max(seconds, 1e-9)))


class LossWindow:
    """The mean loss since the last multiple of `every` updates, even after a restart of the run.

    Args:
        every: updates between log lines, `run.log_every`.
        rows: rows of metrics.jsonl up to update `first`.
        first: update that the run continues from.
    """

    def __init__(self, every: int, rows: list[dict], first: int):
        self._every, self._sum, self._count = every, 0.0, 0
        last = next((row for row in reversed(rows) if "averaged" in row), None)
        if last and last["step"] == first and first % every and isinstance(last.get("loss"), float):
            self._sum, self._count = last["loss"] * last["averaged"], last["averaged"]

    def mean(self, loss: float, updates: int, done: int) -> tuple[float, int]:
        """Adds further updates; returns the mean since the last multiple of `every`.

        Args:
            loss: mean loss of the further updates; NaN if all were skipped.
            updates: number of further updates, without skipped ones.
            done: updates done in all.

        Returns:
            (mean loss, number of updates in the mean).
        """
        if updates:
            self._sum, self._count = self._sum + loss * updates, self._count + updates
        mean, count = (self._sum / self._count if self._count else math.nan), self._count
        if done % self._every == 0:
            self._sum, self._count = 0.0, 0
        return mean, count


class RiseDetector:
    """A detector of divergence. It reports once that the loss has risen above the loss at the start.

    Args:
        rows: rows of metrics.jsonl of a run that is continued.
    """

    def __init__(self, rows: list[dict]):
        losses = [row["loss"] for row in rows if isinstance(row.get("loss"), float)]
        self._start = losses[0] if losses else None
        self._recent = deque(losses[1:][-_LINES:], maxlen=_LINES)
        self._said = False

    def notice(self, loss: float) -> tuple[float, float] | None:
        """Adds the loss of a line; returns (first loss, smoothed loss) if the loss has risen."""
        if not math.isfinite(loss):
            return None
        if self._start is None:
            self._start = loss
            return None
        self._recent.append(loss)
        smooth = sum(self._recent) / len(self._recent)
        # With fewer lines, the loss must be twice as high.
        margin = _MARGIN if len(self._recent) == _LINES else 2 * _MARGIN
        if self._said or smooth <= margin * self._start:
            return None
        self._said = True
        return self._start, smooth


class Heartbeat:
    """A thread that calls `say` if no line is printed for some time.

    The first call comes after `seconds`. Each further call waits twice as long.

    Args:
        say: function that takes the seconds since the last `beat`.
        seconds: time before the first call.
    """

    def __init__(self, say: Callable[[float], None], seconds: float = MINUTE / 2):
        self._say, self._seconds, self._ended = say, seconds, threading.Event()
        self.beat()
        self._thread = threading.Thread(target=self._run, name="fastmim-heartbeat", daemon=True)

    def beat(self) -> None:
        """Restarts the time, because a line was printed."""
        self._since, self._wait = time.monotonic(), self._seconds

    def start(self) -> None:
        """Starts the thread."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread if it was started."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(min(1.0, self._seconds)):
            silent = time.monotonic() - self._since
            if silent >= self._wait:
                self._wait *= 2
                self._say(silent)
