"""Stopping well: signals and a vanished launcher become one decision that every rank takes at the same step.

May import torch and the standard library only.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType

_REASONS = (None, "SIGUSR1", "SIGTERM", "SIGINT", "launcher gone")
_SIGNALS = {signal.SIGUSR1: 1, signal.SIGTERM: 2, signal.SIGINT: 3}
_LAUNCHER_GONE = 4
_CHECK_SECONDS = 1.0
_LAUNCHERS = ("deepspeed", "ds", "torchrun")
_LAUNCHER_MODULES = ("deepspeed.launcher", "torch.distributed.")
_PROC = os.path.exists("/proc/self/stat")


class Stop:
    """Collects requests to stop; `poll` at every step edge tells all ranks the same reason at the same step.

    Make it on every rank after `torch.distributed` is initialised: it opens its own gloo group. Handlers only set a
    flag, so a save is never interrupted and never runs inside a handler; a second SIGINT raises KeyboardInterrupt.
    """

    def __init__(self, watched: dict[int, str] | None = None) -> None:
        """
        Args:
            watched: what `launchers` gave when the process began: one that has ended since then is noticed too.
        """
        import torch
        from torch import distributed as dist

        self._code = 0
        self._interrupted = False
        self._launchers = launchers() if watched is None else watched
        self._next_check = time.monotonic() + _CHECK_SECONDS
        self._group = None
        self._work = None
        self._flag = torch.tensor(0)
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")
        self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def poll(self) -> str | None:
        """Why to stop now ("SIGTERM", "SIGUSR1", "SIGINT", "launcher gone"), or None; the same on every rank.

        With several ranks, an asynchronous all-reduce on the CPU is started here and read at the next call: nothing
        waits for a device, and an answer comes one step after the request.
        """
        import torch
        from torch import distributed as dist

        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + _CHECK_SECONDS
            if any(_start_time(pid) != start for pid, start in self._launchers.items()):
                self._code = max(self._code, _LAUNCHER_GONE)
        if self._group is None:
            return _REASONS[self._code]
        agreed = 0
        if self._work is not None:
            self._work.wait()
            agreed = int(self._flag)
        self._flag = torch.tensor(self._code)
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return _REASONS[agreed]

    def close(self) -> None:
        """Ends the last exchange and puts the previous signal handlers back; every rank calls it at the same step."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        self._code = max(self._code, _SIGNALS[signal.Signals(number)])


def launchers() -> dict[int, str]:
    """Start time by pid of the launcher's processes above this one, whose end means that nobody waits for this rank.

    All of them count: a SIGTERM to `deepspeed` ends the topmost only. A shell is none of them, so that
    `nohup python ... &` may lose its shell. Without /proc it is the parent, in runs of several processes.
    """
    pid, found = os.getppid(), {}
    if not _PROC and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        found[pid] = _start_time(pid)
    while pid > 1 and (fields := _stat(pid)):
        if _is_launcher(pid):
            found[pid] = fields[19]
        pid = int(fields[1])
    return found


def _is_launcher(pid: int) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return False
    return any(Path(a).name in _LAUNCHERS or a.startswith(_LAUNCHER_MODULES) for a in arguments[:4])


def _start_time(pid: int) -> str | None:
    """What tells a process from a later one of the same pid, or None once it has ended (a zombie has)."""
    if not _PROC:
        return "parent" if pid == os.getppid() else None
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in "ZX" else None


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on (proc(5)); [] if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
