"""Results beside the checkpoints (scores, pictures, exports): a failure costs one line, never the training.

May import L3 and below.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from ..engine.process import Process
from ..host.command import lacks_memory
from ..host.terminal import shown
from ..run.folder import FOLDERS
from ..run.meter import Meter

T = TypeVar("T")
_LONGEST = 400  # characters of a reason


class LateError(RuntimeError):
    """A part of collective work that failed on some process; raised on all of them."""


def check_outputs(folder: Path) -> None:
    """Checks that the run can write everything that it will write at some time.

    Raises:
        ValueError: something in the run folder is in the way.
    """
    for name in FOLDERS:
        path = folder / name
        if os.path.lexists(path) and not (path.is_dir() and os.access(path, os.W_OK | os.X_OK)):
            raise ValueError(
                f"{shown(path)}: expected a folder that can be written to, or none; remove what is there, or choose "
                "another run.dir"
            )
    for name in ("result.json", "loss.png", "summary.png"):
        if (path := folder / name).is_dir():
            raise ValueError(f"{shown(path)}: expected a file or none, found a folder; choose another run.dir")


class Promises:
    """Makes the results of a finished run and collects the names of those that are missing."""

    def __init__(self):
        self.missing: list[str] = []

    @contextlib.contextmanager
    def keep(self, name: str, meter: Meter) -> Iterator[None]:
        """Reports a failure inside as `attempt` does, and notes that the result is missing."""
        self.missing.append(name)
        with attempt(name, meter, "the weights are saved; the same command tries again"):
            yield
            self.missing.remove(name)


@contextlib.contextmanager
def attempt(name: str, meter: Meter, then: str) -> Iterator[None]:
    """Reports a failure inside in one line and goes on.

    Args:
        name: of the work inside, for a person.
        then: the words for what happens after a failure.
    """
    try:
        yield
        return
    except Exception as error:  # of any library: whatever it is, training counts more
        reason = explain(error)
    # Behind the handler, which held the memory of the failed work.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    meter.say(f"warning: {name} failed ({reason}); {then}")


def together(process: Process, work: Callable[[], T]) -> T:
    """Returns this process's result of work that needs no other process, once all have theirs. Collective.

    Raises:
        LateError: the work failed on some process; so none waits for another in what follows.
    """
    result, problem = None, None
    try:
        result = work()
    except Exception as error:
        if process.world == 1:
            raise
        problem = explain(error)
    for rank, found in enumerate(process.gather(problem)):
        if found is not None:
            raise LateError(f"process {rank}: {found}")
    return result


def explain(error: Exception) -> str:
    """Returns the reason of a failure in one line, without addresses or names of classes."""
    text = str(error)
    if isinstance(error, LateError):
        return text
    if lacks_memory(error):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    text = shown(" ".join(re.sub(r" at 0x[0-9a-f]+", "", text).split())) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
