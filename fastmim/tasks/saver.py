"""Checkpoints of a run, written by the loop, or by another thread while an update is under way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..engine.engine import StepResult
from ..run import checkpoint
from .task import MicroBatch, Task

T = TypeVar("T")


class Saver:
    """The writer of a task's checkpoints.

    The loop holds a lock while an update changes the state, and while a checkpoint is written. The loop releases the
    lock while it waits for images or computes gradients, so that `save_now` can save from another thread.

    Args:
        task: the task, whose engine this saver then observes.
        folder: folder of the checkpoints.
        first: updates done at the start, whose state a checkpoint already holds.
        meta: further description of the run for each checkpoint.
        say: prints a warning.

    Attributes:
        done: updates done.
        saved: updates in the newest checkpoint.
    """

    def __init__(self, task: Task, folder: Path, first: int, meta: dict[str, Any], say: Callable[[str], object]):
        self.task, self.folder, self.meta, self.say = task, folder, meta, say
        self.done = self.saved = first
        self._lock, self._writing = threading.Lock(), False
        task.engine.computing = self._unlocked

    def train_step(self, step: int, micro_batches: Iterable[MicroBatch]) -> StepResult:
        """Does one update. Until it ends, `save_now` saves the state before the update. Collective."""
        with self._lock:
            result = self.task.train_step(step, self._waiting(micro_batches))
            self.done = step + 1
        return result

    def save(self) -> None:
        """Writes a checkpoint; on a full disk, reports the failure and returns. Collective."""
        state = self.task.state_dict()
        with self._lock:
            self._writing = True
            self._write(state)
            self._writing = False

    def updates(self) -> tuple[int, int]:
        """Returns (updates done, updates in the newest checkpoint)."""
        return self.done, self.saved

    def can_save(self) -> bool:
        """True if `save_now` works. The queue of a GPU may hold updates of a broken collective."""
        process = self.task.process
        return process.world == 1 or (self.task.engine.stage == 0 and process.device.type == "cpu")

    def save_now(self) -> None:
        """Saves the last finished update from another thread; training cannot continue afterwards."""
        while not self._lock.acquire(timeout=5.0):  # never released
            if not self._writing:
                return  # an update hangs, and may have changed half of the state
        self.task.engine.rewind()
        self._write(self.task.state_dict(alone=True))

    def _write(self, state: checkpoint.State) -> None:
        """Writes a checkpoint of a state; on ranks that do not write, the state is empty."""
        saved = self.done
        if state:
            try:
                checkpoint.save(self.folder, saved, state, self.task.meta() | self.meta, self.task.config.run.keep)
            except checkpoint.CheckpointError as error:
                self.say(f"warning: {error}")
                saved = saved if error.saved else self.saved
        self.saved = saved

    @contextlib.contextmanager
    def _unlocked(self) -> Iterator[None]:
        """Releases the lock inside the context, where the saved state does not change."""
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()

    def _waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields the batches, and releases the lock while it waits for a batch."""
        batches = iter(batches)
        while True:
            with self._unlocked():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch
