"""Results besides the checkpoints (scores, pictures, exports), whose failure never ends training."""

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


class CollectiveError(RuntimeError):
    """Failure of collective work on one process or more, raised on all processes."""


def check_outputs(folder: Path) -> None:
    """Checks that the run can write all its outputs into the run folder.

    Raises:
        ValueError: a file or folder is in the way of an output.
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


class FinalOutputs:
    """Outputs of a finished run.

    Attributes:
        missing: names of the outputs that could not be made.
    """

    def __init__(self):
        self.missing: list[str] = []

    @contextlib.contextmanager
    def make(self, name: str, meter: Meter) -> Iterator[None]:
        """Covers the making of an output; a failure is reported and the output stays in `missing`.

        Args:
            name: name of the output in the message and in `missing`.
            meter: prints the message.
        """
        self.missing.append(name)
        with attempt(name, meter, "the weights are saved; the same command tries again"):
            yield
            self.missing.remove(name)


@contextlib.contextmanager
def attempt(name: str, meter: Meter, then: str) -> Iterator[None]:
    """Reports a failure inside the context in one line, and does not raise.

    Args:
        name: name of the work in the message.
        meter: prints the message.
        then: end of the message, on the consequence of the failure.
    """
    try:
        yield
        return
    except Exception as error:  # training counts more than any failure of any library
        reason = explain(error)
    # Runs outside the handler, because the exception keeps the memory of the failed work alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    meter.say(f"warning: {name} failed ({reason}); {then}")


def run_on_all(process: Process, work: Callable[[], T]) -> T:
    """Runs work on every process and waits for all; returns this process's result. Collective.

    A failure on one process raises on all processes. So no process waits for another in the next collective call.

    Args:
        process: this process.
        work: needs no other process.

    Raises:
        CollectiveError: the work failed on some process.
    """
    if process.world == 1:
        return work()
    results, problem = [], None
    try:
        results.append(work())
    except Exception as error:
        problem = explain(error)
    for rank, found in enumerate(process.gather(problem)):
        if found is not None:
            raise CollectiveError(f"process {rank}: {found}")
    return results[0]


def explain(error: Exception) -> str:
    """Returns the reason of a failure in one line, without memory addresses."""
    text = str(error)
    if isinstance(error, CollectiveError):
        return text
    if lacks_memory(error):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    text = shown(" ".join(re.sub(r" at 0x[0-9a-f]+", "", text).split())) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
