"""Log lines: when one is due, which updates a loss is averaged over, when a rise of the loss is said.

Standard library only.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

MINUTE = 60.0
_SOON = 25.0  # seconds; a first line is due before twice as many have passed
_LINES = 3  # log lines over which a rise is smoothed
_MARGIN = 1.25  # times the loss of the first line


class Pace:
    """Decides after which updates a log line is due: multiples of `every`, and about one a minute if that is earlier.

    Every process must reach the same decisions, so each takes the same arguments: seconds are those of rank 0.
    """

    def __init__(self, first: int, every: int):
        """
        Args:
            first: updates done before.
            every: updates between log lines, `run.log_every`.
        """
        self._first, self._every, self._next = first, every, None

    def asks(self, done: int) -> bool:
        """True if `due` needs to know the seconds since the start: before the first line, ever more seldom."""
        since = done - self._first
        return self._next is None and since & (since - 1) == 0 and done % self._every != 0

    def due(self, done: int, seconds: float = 0.0) -> bool:
        """True if a line is due after this update.

        Args:
            seconds: since the start, if `asks` says so.
        """
        return done % self._every == 0 or seconds > _SOON or (self._next is not None and done >= self._next)

    def logged(self, done: int, seconds: float) -> None:
        """Notes a line after this update, and the seconds that an update takes."""
        self._next = done + max(1, int(MINUTE / max(seconds, 1e-9)))


class Window:
    """Averages losses since the last multiple of `every`, also across a stop: every full line averages as many."""

    def __init__(self, every: int, rows: list[dict], first: int):
        """
        Args:
            rows: of metrics.jsonl, up to update `first`, from which the run continues.
        """
        self._every, self._sum, self._count = every, 0.0, 0
        last = next((row for row in reversed(rows) if "averaged" in row), None)
        if last and last["step"] == first and first % every and isinstance(last.get("loss"), float):
            self._sum, self._count = last["loss"] * last["averaged"], last["averaged"]

    def mean(self, loss: float, updates: int, done: int) -> tuple[float, int]:
        """Takes the mean of further updates; returns the mean since the last multiple of `every`, and of how many.

        Args:
            loss: NaN if there is no update that counts.
            done: updates done in all.
        """
        if updates:
            self._sum, self._count = self._sum + loss * updates, self._count + updates
        mean, count = (self._sum / self._count if self._count else math.nan), self._count
        if done % self._every == 0:
            self._sum, self._count = 0.0, 0
        return mean, count


class Rise:
    """Notices once that the loss has risen beyond its start."""

    def __init__(self, rows: list[dict]):
        """
        Args:
            rows: of metrics.jsonl, of a run that is continued.
        """
        losses = [row["loss"] for row in rows if isinstance(row.get("loss"), float)]
        self._start = losses[0] if losses else None
        self._recent = deque(losses[1:][-_LINES:], maxlen=_LINES)
        self._said = False

    def notice(self, loss: float) -> tuple[float, float] | None:
        """Takes the loss of a line; returns the first loss and the smoothed one if the latter is clearly above."""
        if not math.isfinite(loss):
            return None
        if self._start is None:
            self._start = loss
            return None
        self._recent.append(loss)
        smooth = sum(self._recent) / len(self._recent)
        # A single line must be twice as far beyond the margin.
        margin = _MARGIN if len(self._recent) == _LINES else 2 * _MARGIN
        if self._said or smooth <= margin * self._start:
            return None
        self._said = True
        return self._start, smooth


class Heartbeat:
    """Says that something goes on while no line is printed: after half a minute, then after twice as long each time."""

    def __init__(self, say: Callable[[float], None], seconds: float = MINUTE / 2):
        """
        Args:
            say: called in a thread with the seconds since the last `beat`.
            seconds: before the first call.
        """
        self._say, self._seconds, self._ended = say, seconds, threading.Event()
        self.beat()
        self._thread = threading.Thread(target=self._run, name="fastmim-heartbeat", daemon=True)

    def beat(self) -> None:
        """Notes that a line was printed."""
        self._since, self._wait = time.monotonic(), self._seconds

    def start(self) -> None:
        """Starts the thread."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, if it was started."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(min(1.0, self._seconds)):
            silent = time.monotonic() - self._since
            if silent >= self._wait:
                self._wait *= 2
                self._say(silent)
