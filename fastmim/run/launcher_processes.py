"""The processes of the launcher (`deepspeed`, `torchrun`) above this process.

If a launcher process has ended, no process waits for this rank any more.
"""

from __future__ import annotations

import os
from pathlib import Path

_LAUNCHERS = ("deepspeed", "ds", "torchrun")
_LAUNCHER_MODULES = ("deepspeed.launcher", "torch.distributed.")
_PROC = os.path.exists("/proc/self/stat")
_STATE, _PARENT, _START = 0, 1, 19  # fields of /proc/<pid>/stat after the name, see proc(5)


def launchers() -> dict[int, str | None]:
    """Returns the start time of each launcher process above this process, by pid.

    All of them count, because a SIGTERM to `deepspeed` ends only the topmost process. A shell is no launcher, because
    `nohup python ... &` may lose its shell. Without /proc, the parent counts in runs of several processes.
    """
    pid, found = os.getppid(), {}
    if not _PROC and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        found[pid] = start_time(pid)
    while pid > 1 and (fields := _stat(pid)):
        if _is_launcher(pid):
            found[pid] = fields[_START]
        pid = int(fields[_PARENT])
    return found


def start_time(pid: int) -> str | None:
    """Returns the start time of a process, or None once the process has ended.

    A later process may have the same pid, but not the same start time.
    """
    if not _PROC:
        return "parent" if pid == os.getppid() else None
    fields = _stat(pid)
    return fields[_START] if fields and fields[_STATE] not in "ZX" else None


def _is_launcher(pid: int) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return False
    return any(Path(a).name in _LAUNCHERS or a.startswith(_LAUNCHER_MODULES) for a in arguments[:4])


def _stat(pid: int) -> list[str]:
    """Returns the fields of /proc/<pid>/stat from the state on; [] if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
