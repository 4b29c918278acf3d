"""Numbers that a launcher (`deepspeed`, `torchrun`) puts in the environment. May import terminal only."""

from __future__ import annotations

import os

from .terminal import shown

START = "start with torchrun or deepspeed, or unset RANK and WORLD_SIZE for a run of one process"
"""What to do about an environment that describes no process of a run."""


def launched(name: str, at_least: int) -> int | None:
    """Returns a whole number that the launcher sets, or None if it is not set.

    Raises:
        ValueError: it is no whole number, or too small.
    """
    text = os.environ.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) < at_least:
        bound = f" of at least {at_least}" if at_least else ""
        raise ValueError(f"{name} in the environment: expected a whole number{bound}, got {shown(text)}: {START}")
    return int(text)


def share_of_cores() -> int:
    """Returns the number of this process's cores: the machine's, shared among the run's processes there.

    Raises:
        ValueError: as `launched`.
    """
    # torchrun's name, DeepSpeed's, and that of a run started by hand, which is then taken to be on one machine.
    names = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE")
    processes = next((found for name in names if (found := launched(name, 1))), 1)
    return max(1, len(os.sched_getaffinity(0)) // processes)
