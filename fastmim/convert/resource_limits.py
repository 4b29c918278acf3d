"""Trial of a function in a forked process with limits on time and memory."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable

_PATIENCE = 10  # wall-clock seconds for each CPU second, because a busy machine is slow
_DONE, _MEMORY = b"\0done", b"\0memory"  # answers of the fork; every other answer is an error message


def try_within(call: Callable[[], object], seconds: int, memory: int) -> None:
    """Calls a function in a fork of this process, and ends the fork if it exceeds a limit.

    The result is dropped. After a successful trial, repeat the call in this process.

    Args:
        call: repeatable function that raises ValueError for faults of the file.
        seconds: limit on CPU time, seconds.
        memory: limit on address space beyond that of this process, bytes.

    Raises:
        ValueError: `call` raised ValueError, exceeded a limit, or crashed.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python warns that a fork lacks the parent's threads; the trial needs none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _run_in_fork(call, seconds, memory, reading, writing)
    os.close(writing)
    try:
        reason = _read_all(reading, time.monotonic() + _PATIENCE * seconds)
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # the answer has been read, or came too late
        _, status = os.waitpid(child, 0)
    if reason is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        raise ValueError(f"reading it takes more than {seconds} seconds, far more than a file of its size needs")
    if reason == _MEMORY:
        raise ValueError(f"reading it takes more than {memory >> 20} MiB of memory, far more than its size")
    if reason != _DONE:
        raise ValueError(reason.decode(errors="replace") or "reading it fails")


def _run_in_fork(call: Callable[[], object], seconds: int, memory: int, reading: int, writing: int) -> None:
    """Sets the limits, calls the function, writes the answer into the pipe, and ends the fork."""
    answer = b""
    try:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # otherwise a crash is reported twice
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
    finally:  # no exception may reach the code that forked this process
        os.write(writing, answer)
        os._exit(0)


def _read_all(pipe: int, deadline: float) -> bytes | None:
    """Reads a pipe until its other end is closed; returns None after the deadline."""
    found = b""
    while True:
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        piece = os.read(pipe, 1 << 16)
        if not piece:
            return found
        found += piece
