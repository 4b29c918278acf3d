"""Stopping well: signals, a vanished launcher and lost processes end a run soon, with what can be saved.

May import torch, peers, terminal and the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, Protocol

from ..host.terminal import shown

if TYPE_CHECKING:
    from .peers import Peers

_REASONS = (None, "SIGUSR1", "SIGHUP", "SIGTERM", "SIGINT", "launcher gone")
_SIGNALS = {getattr(signal, name): code for code, name in enumerate(_REASONS[:5]) if name}
_LAUNCHER_GONE = 5
_CHECK_SECONDS = 1.0
_TICK = 0.1  # seconds between two looks of the watcher
_GRACE = 3.0  # seconds from a signal in which an update may end and be saved in the usual way
_SHORT = 1.0  # the same while this process has finished no update
_CONTINUES = "the same command continues"
_STOPPED = "stopped by "
_LAUNCHERS = ("deepspeed", "ds", "torchrun")
_LAUNCHER_MODULES = ("deepspeed.launcher", "torch.distributed.")
_PROC = os.path.exists("/proc/self/stat")


class Rescue(Protocol):
    """A run that can be saved while an update is under way; its methods are called in another thread."""

    def updates(self) -> tuple[int, int]:
        """Returns the updates done, and the updates in the newest checkpoint."""

    def can_save(self) -> bool:
        """True if this process can save the last finished update without the others."""

    def save_now(self) -> None:
        """Saves the last finished update; the run cannot go on afterwards."""


class Stop:
    """Collects requests to stop; `poll` at every step edge tells all ranks the same reason at the same step.

    A thread watches: before training it ends the process at a signal. In training it gives the update a few seconds to
    end, then saves the last finished update, if this process can do that alone, and ends the process. It does the same
    when another process is lost. So a signal is obeyed while an operation, a collective or a decoder blocks. A second
    SIGINT ends the process without saving; the newest checkpoint stays whole.

    Make it in the main thread as early as possible; use it as a context manager, or `close` it.
    """

    def __init__(self, watched: dict[int, str] | None = None) -> None:
        """
        Args:
            watched: the result of `launchers` when the process began, so that a launcher that has ended since then is
                noticed too.
        """
        self._code, self._interrupts, self._since, self._lost_since = 0, 0, 0.0, 0.0
        self._launchers = launchers() if watched is None else watched
        self._next_check = time.monotonic() + _CHECK_SECONDS
        self._group = self._work = self._flag = None
        self._rescue: Rescue | None = None
        self._first, self._next, self._interruptible = 0, _CONTINUES, False
        self.peers: Peers | None = None
        self._leaving = threading.Lock()
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._writes, False)
        # `nohup` has the run ignore SIGHUP.
        numbers = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        # Python calls handlers when the main thread runs Python again; the number arrives in this pipe at once.
        self._previous_pipe = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="fastmim-stop", daemon=True)
        self._thread.start()

    def __enter__(self) -> Stop:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def join(self, rank: int, world: int, timeout: float) -> None:
        """Agrees with the other processes from now on. Collective, after `torch.distributed` is initialised.

        Args:
            timeout: seconds without a sign of life after which a process is lost.
        """
        from torch import distributed as dist

        from .peers import Peers

        if world > 1:
            self.peers = Peers(rank, world, timeout)
            self._group = dist.new_group(backend="gloo")

    def watch(self, rescue: Rescue) -> None:
        """From now on a signal waits for the step edge, and `rescue` saves if that takes too long."""
        self._first = rescue.updates()[0]
        self._rescue = rescue

    def poll(self) -> str | None:
        """Returns why to stop now (a signal's name or "launcher gone"), or None; the same on every rank.

        With several ranks, an asynchronous all-reduce on the CPU is started here and read at the next call: nothing
        waits for a device, and an answer comes one step after the request.
        """
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + _CHECK_SECONDS
            if any(_start_time(pid) != start for pid, start in self._launchers.items()):
                self._code = max(self._code, _LAUNCHER_GONE)
        if self._group is None:
            return _REASONS[self._code]
        import torch
        from torch import distributed as dist

        agreed = 0
        if self._work is not None:
            self._work.wait()
            agreed = int(self._flag)
        self._flag = torch.tensor(self._code)
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return _REASONS[agreed]

    def settle(self) -> None:
        """Ends the last exchange of `poll`; every rank calls it at the same step."""
        if self._work is not None:
            self._work.wait()
            self._work = None

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """Inside, where all updates are saved, a signal ends the main thread's work by SystemExit."""
        self._next, self._interruptible = "the same command makes the rest", True
        try:
            if self._code:
                self._interrupt()
            yield
        finally:
            self._interruptible = False

    def _interrupt(self) -> NoReturn:
        self._interruptible = False
        words = f"{_STOPPED}{_REASONS[self._code]}"
        self.tell(f"was {words}")
        if self._speaks():
            print(f"train.py: {self.last_words(words)}", file=sys.stderr)
        raise SystemExit(0)

    def tell(self, words: str) -> None:
        """Tells the other processes why this one ends: they end too."""
        if self.peers is not None:
            self.peers.tell(words)

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Inside, a failed collective ends this process with a line that names the lost one; other errors are told."""
        try:
            yield
        except Exception as error:
            words = self._lost() if isinstance(error, RuntimeError) else None
            if words:
                self.leave(words)
            self.tell(f"ended with {type(error).__name__}: {error}")
            raise

    def last_words(self, words: str) -> str:
        """Saves what can be saved; returns the words, and which update is saved."""
        if self._rescue is None or not self._speaks():
            return words
        done, saved = self._rescue.updates()
        if done != saved and self._rescue.can_save():
            self._rescue.save_now()
        return self._kept(words)

    def _kept(self, words: str) -> str:
        """Returns the words, and which update is saved."""
        done, saved = self._rescue.updates()
        if done == 0:
            return f"{words}; no update was done"
        if done == saved:
            return f"{words}; saved: update {saved}; {self._next}"
        if saved == 0:
            return f"{words}; no update is saved; the same command starts again"
        return f"{words}; update {done} is not saved; {_CONTINUES} from {saved}"

    def leave(self, words: str, status: int | None = None) -> NoReturn:
        """Ends this process now, from any thread, saving first what can be saved.

        Args:
            words: what `Peers` says of another process, or why this one ends.
            status: exit status; None = of the words.
        """
        self._leaving.acquire()  # and never released: one thread ends the process
        refused, stopped = " refused: " in words, _STOPPED in words
        with contextlib.suppress(Exception):  # nothing may keep this process
            if status is None:
                words = self.last_words(words)
                lost = self._rescue is not None and len(set(self._rescue.updates())) > 1 and self._speaks()
                status = 2 if refused else int(lost or not stopped)
            if os.environ.get("LOCAL_RANK", "0") == "0" or not refused and (self._speaks() or not stopped):
                sys.stdout.flush()
                print(shown(f"train.py: {words}"), file=sys.stderr, flush=True)
            if self.peers is not None:
                self.peers.leave()
        os._exit(1 if status is None else status)

    def close(self) -> None:
        """Ends the watcher and puts the previous signal handlers back."""
        if not self._thread.is_alive():
            return
        if self.peers is not None:
            self.peers.close()
        signal.set_wakeup_fd(self._previous_pipe)
        os.write(self._writes, b"\0")
        self._thread.join()
        os.close(self._reads)
        os.close(self._writes)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._code = max(self._code, _SIGNALS[signal.Signals(number)])
        if frame is not None and self._interruptible:
            self._interrupt()

    def _lost(self) -> str | None:
        """After a collective has failed: returns which process is lost, or None if all are there after a while."""
        for _ in range(100 if self.peers else 0):
            if words := self.peers.lost(early=True):
                return words
            time.sleep(_TICK)
        return None

    def _speaks(self) -> bool:
        return self.peers.is_first if self.peers else os.environ.get("RANK", "0") == "0"

    def _watch(self) -> None:
        while True:
            ready, _, _ = select.select([self._reads], [], [], _TICK)
            for number in os.read(self._reads, 64) if ready else b"":
                if number == 0:
                    return
                if number in _SIGNALS:
                    self._since = self._since or time.monotonic()
                    self._handle(number, None)
                    self._interrupts += number == signal.SIGINT
            self._judge()

    def _judge(self) -> None:
        """Ends this process if waiting has no point."""
        now, name = time.monotonic(), _REASONS[self._code]
        if self._interrupts > 1:
            words = "interrupted again"
            self.leave(self._kept(words) if self._rescue is not None and self._speaks() else words, 130)
        if self._since and self._rescue is None:
            self.leave(f"{_STOPPED}{name} before the first update", 128 + getattr(signal, name, signal.SIGTERM))
        if self.peers is not None and (words := self.peers.lost(_TICK)):
            self._lost_since = self._lost_since or now
            # This process may be about to refuse the same, in its own words.
            if " refused: " not in words or now > self._lost_since + _GRACE:
                self.leave(words)
        done, saved = self._rescue.updates() if self._rescue is not None else (0, 0)
        early = done == self._first and self._next == _CONTINUES
        if self._since and now > self._since + (_SHORT if early else _GRACE):
            together = done != saved and not self._rescue.can_save() and self.peers is not None and self.peers.all_alive
            if together and now < self._since + self.peers.timeout:
                return  # only all together can save, at the step edge
            self.tell(f"was {_STOPPED}{name}")
            self.leave(f"{_STOPPED}{name}")


def launchers() -> dict[int, str]:
    """Returns the start time, by pid, of the launcher's processes above this one.

    When one of them has ended, nobody waits for this rank. All count: a SIGTERM to `deepspeed` ends only the topmost.
    A shell is no launcher: `nohup python ... &` may lose its shell. Without /proc the parent counts, in runs of several
    processes.
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
    """Returns the start time of a process, which later ones of its pid do not share; None once it has ended."""
    if not _PROC:
        return "parent" if pid == os.getppid() else None
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in "ZX" else None


def _stat(pid: int) -> list[str]:
    """Returns the fields of /proc/<pid>/stat from the state on (proc(5)); [] if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
