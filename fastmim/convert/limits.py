"""A trial of work on a foreign file in a process that may use little time and memory. Standard library only."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable

_PATIENCE = 10  # wall-clock seconds for each CPU second: a busy machine is slow


def try_within(call: Callable[[], object], seconds: int, memory: int) -> None:
    """Calls a function in a fork of this process, which ends there if it takes too long or too much.

    The result is dropped. A caller that repeats the call afterwards knows what it costs.

    Args:
        call: must be repeatable, and raise ValueError for what the file is to blame for.
        seconds: CPU time.
        memory: bytes of address space beyond those of this process.

    Raises:
        ValueError: `call` raised it, needed more than it may, or crashed.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that a fork does not have; it needs none
        child = os.fork()
    if child == 0:
        _run(call, seconds, memory, reading, writing)
    os.close(writing)
    try:
        reason = _read_all(reading, time.monotonic() + _PATIENCE * seconds)
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # it has nothing more to say
        _, status = os.waitpid(child, 0)
    if reason is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        raise ValueError(f"reading it takes more than {seconds} seconds, far more than a file of its size needs")
    if reason == _MEMORY:
        raise ValueError(f"reading it takes more than {memory >> 20} MiB of memory, far more than its size")
    if reason != _DONE:
        raise ValueError(reason.decode(errors="replace") or "reading it fails")


_DONE, _MEMORY = b"\0done", b"\0memory"


def _run(call: Callable[[], object], seconds: int, memory: int, reading: int, writing: int) -> None:
    """The life of the fork."""
    answer = b""
    try:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a crash would be reported twice
        with open("/proc/self/statm") as file:
            memory += int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        call()
        answer = _DONE
    except MemoryError:
        answer = _MEMORY
    except ValueError as error:
        answer = str(error).encode(errors="replace")
    finally:  # whatever is raised must not reach the code that this process was forked from
        os.write(writing, answer)
        os._exit(0)


def _read_all(pipe: int, deadline: float) -> bytes | None:
    """Reads until the other end is closed; None after the deadline."""
    found = b""
    while True:
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        piece = os.read(pipe, 1 << 16)
        if not piece:
            return found
        found += piece
