"""Environment variables that a launcher (`deepspeed`, `torchrun`) sets."""

from __future__ import annotations

import os

from .terminal import shown

START = "start with torchrun or deepspeed, or unset RANK and WORLD_SIZE for a run of one process"
"""End of a message about a wrong environment: advice."""


def launched(name: str, at_least: int) -> int | None:
    """Returns a whole number that the launcher sets, or None if the variable is not set.

    Args:
        name: name of the environment variable.
        at_least: smallest valid value.

    Raises:
        ValueError: the value is not a whole number, or is too small.
    """
    text = os.environ.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) < at_least:
        bound = f" of at least {at_least}" if at_least else ""
        raise ValueError(f"{name} in the environment: expected a whole number{bound}, got {shown(text)}: {START}")
    return int(text)


def share_of_cores() -> int:
    """Returns the number of cores for this process.

    The run's processes on this machine share the cores that the system allows.

    Raises:
        ValueError: an environment variable holds no valid number; see `launched`.
    """
    # torchrun sets the first name, DeepSpeed the second. A run started by hand is assumed to be on one machine.
    names = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE")
    processes = next((found for name in names if (found := launched(name, 1))), 1)
    return max(1, len(os.sched_getaffinity(0)) // processes)
