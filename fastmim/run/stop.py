"""The end of a run by a signal, a vanished launcher or a lost process.

The run ends within seconds, and saves what can be saved.
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
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ..host.terminal import shown
from .launcher_processes import launchers, start_time

if TYPE_CHECKING:
    from torch import Tensor

    from .peers import Peers

_REASONS = ("", "SIGUSR1", "SIGHUP", "SIGTERM", "SIGINT", "launcher gone")
_SIGNALS = {getattr(signal, name): code for code, name in enumerate(_REASONS[:5]) if name}
_LAUNCHER_GONE = 5
_CHECK_SECONDS = 1.0
_TICK = 0.1  # seconds between two looks of the watcher
_GRACE = 3.0  # seconds after a signal in which an update may end and be saved as usual
_SHORT = 1.0  # the same, before this process has finished an update
_CONTINUES = "the same command continues"
_STOPPED = "stopped by "


class Rescue(Protocol):
    """A run that can be saved during an update. Another thread calls the methods."""

    def updates(self) -> tuple[int, int]:
        """Returns (updates done, updates in the newest checkpoint)."""
        ...

    def can_save(self) -> bool:
        """True if this process can save the last finished update without the other processes."""
        ...

    def save_now(self) -> None:
        """Saves the last finished update. The run cannot continue afterwards."""


class Stop:
    """A collector of requests to stop the run.

    `poll` gives all ranks the same reason after the same update.

    A thread watches this process. Before training, a signal ends the process. In training, the thread gives the update
    a few seconds to end. Then the thread saves the last finished update, if this process can save alone, and ends the
    process. The thread does the same if another process is lost. So signals work even while an operation, a collective
    or a decoder blocks. A second SIGINT ends the process without saving. The newest checkpoint stays whole.

    Create the collector in the main thread, as early as possible. Use it as a context manager, or call `close`.

    Args:
        watched: result of `launchers` at the start of the process. With it, a launcher that has ended meanwhile is
            noticed.

    Attributes:
        peers: the other processes of the run, after `join`.
    """

    def __init__(self, watched: dict[int, str | None] | None = None) -> None:
        self._code, self._interrupts, self._since, self._lost_since = 0, 0, 0.0, 0.0
        self._launchers = launchers() if watched is None else watched
        self._next_check = time.monotonic() + _CHECK_SECONDS
        self._group: Any = None  # the process group of `poll`
        self._exchange: tuple[Any, Tensor] | None = None  # the reduction under way, and its tensor
        self._rescue: Rescue | None = None
        self._first, self._next, self._interruptible = 0, _CONTINUES, False
        self.peers: Peers | None = None
        self._leaving = threading.Lock()
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._writes, False)
        # `nohup` makes the run ignore SIGHUP.
        numbers = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        # Python calls handlers only when the main thread runs Python again. The pipe gets the number at once.
        self._previous_pipe = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="fastmim-stop", daemon=True)
        self._thread.start()

    def __enter__(self) -> Stop:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def join(self, rank: int, world: int, timeout: float) -> None:
        """Connects to the other processes. Collective, after `torch.distributed` is initialised.

        Args:
            rank: rank of this process.
            world: number of processes.
            timeout: seconds without a sign of life after which a process is lost.
        """
        from torch import distributed as dist

        from .peers import Peers

        if world > 1:
            self.peers = Peers(rank, world, timeout)
            self._group = dist.new_group(backend="gloo")

    def watch(self, rescue: Rescue) -> None:
        """Lets signals wait for the end of an update. If the update takes too long, `rescue` saves."""
        self._first = rescue.updates()[0]
        self._rescue = rescue

    def poll(self) -> str | None:
        """Returns the reason to stop (a signal's name or "launcher gone"), or None; the same on every rank.

        With several ranks, a call starts an asynchronous all-reduce on the CPU, and the next call reads the result. So
        no call waits for a device, and the answer comes one update after the request.
        """
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + _CHECK_SECONDS
            if any(start_time(pid) != start for pid, start in self._launchers.items()):
                self._code = max(self._code, _LAUNCHER_GONE)
        if self._group is None:
            return _REASONS[self._code] or None
        import torch
        from torch import distributed as dist

        agreed = 0
        if self._exchange is not None:
            work, flag = self._exchange
            work.wait()
            agreed = int(flag)
        flag = torch.tensor(self._code)
        self._exchange = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True), flag
        return _REASONS[agreed] or None

    def settle(self) -> None:
        """Ends the last exchange of `poll`. Every rank calls it after the same update."""
        if self._exchange is not None:
            self._exchange[0].wait()
            self._exchange = None

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """Lets a signal end the `with` block by SystemExit. Use after all updates are saved."""
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
        """Tells the other processes why this process ends. The other processes end too."""
        if self.peers is not None:
            self.peers.tell(words)

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Explains an error of the `with` block to the user or to the other processes.

        If a collective fails because a process is lost, this process ends with a line that names the lost process.
        Other errors are sent to the other processes.
        """
        try:
            yield
        except Exception as error:
            words = self._lost() if isinstance(error, RuntimeError) else None
            if words:
                self.leave(words)
            self.tell(f"ended with {type(error).__name__}: {error}")
            raise

    def last_words(self, words: str) -> str:
        """Saves the last update if possible; returns the words and the number of the saved update."""
        rescue = self._rescue
        if rescue is None or not self._speaks():
            return words
        done, saved = rescue.updates()
        if done != saved and rescue.can_save():
            rescue.save_now()
        return self._kept(words, rescue)

    def _kept(self, words: str, rescue: Rescue) -> str:
        """Returns the words and the number of the saved update."""
        done, saved = rescue.updates()
        if done == 0:
            return f"{words}; no update was done"
        if done == saved:
            return f"{words}; saved: update {saved}; {self._next}"
        if saved == 0:
            return f"{words}; no update is saved; the same command starts again"
        return f"{words}; update {done} is not saved; {_CONTINUES} from {saved}"

    def leave(self, words: str, status: int | None = None) -> NoReturn:
        """Saves the last update if possible, and ends this process. Any thread may call the method.

        Args:
            words: words of `Peers` about another process, or the reason why this process ends.
            status: exit status; None = derived from the words.
        """
        self._leaving.acquire()  # never released: one thread ends the process
        refused, stopped = " refused: " in words, _STOPPED in words
        with contextlib.suppress(Exception):  # no error may keep this process alive
            if status is None:
                words = self.last_words(words)
                lost = self._rescue is not None and len(set(self._rescue.updates())) > 1 and self._speaks()
                status = 2 if refused else int(lost or not stopped)
            first_here = os.environ.get("LOCAL_RANK", "0") == "0"
            if first_here or (not refused and (self._speaks() or not stopped)):
                sys.stdout.flush()
                print(shown(f"train.py: {words}"), file=sys.stderr, flush=True)
            if self.peers is not None:
                self.peers.leave()
        os._exit(1 if status is None else status)

    def close(self) -> None:
        """Ends the watcher, and restores the previous signal handlers."""
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
        """Returns a phrase about the process that is lost after a failed collective; None if all live."""
        if self.peers is None:
            return None
        for _ in range(100):
            if words := self.peers.lost(early=True):
                return words
            time.sleep(_TICK)
        return None

    def _speaks(self) -> bool:
        """True if this process prints and saves for the run."""
        return self.peers.is_first if self.peers else os.environ.get("RANK", "0") == "0"

    def _watch(self) -> None:
        """Reads signals from the pipe, and checks the other processes, until `close`."""
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
        """Ends this process if waiting has no use any more."""
        now, name, rescue, peers = time.monotonic(), _REASONS[self._code], self._rescue, self.peers
        if self._interrupts > 1:
            words = "interrupted again"
            self.leave(self._kept(words, rescue) if rescue is not None and self._speaks() else words, 130)
        if self._since and rescue is None:
            self.leave(f"{_STOPPED}{name} before the first update", 128 + getattr(signal, name, signal.SIGTERM))
        if peers is not None and (words := peers.lost(_TICK)):
            self._lost_since = self._lost_since or now
            # This process may be about to print the same refusal in its own words.
            if " refused: " not in words or now > self._lost_since + _GRACE:
                self.leave(words)
        if not self._since or rescue is None:
            return
        done, saved = rescue.updates()
        early = done == self._first and self._next == _CONTINUES
        if now <= self._since + (_SHORT if early else _GRACE):
            return
        needs_all = done != saved and not rescue.can_save()  # all processes can save together at the end of an update
        if needs_all and peers is not None and peers.all_alive and now < self._since + peers.timeout:
            return
        self.tell(f"was {_STOPPED}{name}")
        self.leave(f"{_STOPPED}{name}")
