"""Signs of life of a run's processes, which reveal a frozen or dead process.

A thread of each process increments a number in the launcher's store, and reads the other processes' numbers. So a dead
process is noticed even while a collective waits forever in C++.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore

_ENDED = 1 << 40  # added to the number of a process that has ended normally
_LOOKS = 8  # looks of the thread in a timeout
_EARLY = 3  # looks without a sign of life that prove a loss after a failed collective


class Peers:
    """The other processes of the run. Call `close` at the end of this process.

    Args:
        rank: rank of this process.
        world: number of processes.
        timeout: seconds without a sign of life after which a process is lost.
    """

    def __init__(self, rank: int, world: int, timeout: float):
        self._rank, self.timeout = rank, timeout
        self._interval = min(2.0, timeout / _LOOKS)
        self._kept_by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._prefix = f"fastmim/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        # A second connection, because torch's own connection may be waiting for an answer.
        self._store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
        )
        self._others = [other for other in range(world) if other != rank]
        self._numbers, self._silent = dict.fromkeys(self._others, 0), dict.fromkeys(self._others, 0)
        self._verdict, self._failed = "", ""
        self._looks, self._seen_looks, self._still = 0, 0, 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="fastmim-peers", daemon=True)
        self._thread.start()

    def lost(self, elapsed: float = 0.0, early: bool = False) -> str | None:
        """Returns a phrase about a lost process, or None while all processes are alive.

        Args:
            elapsed: seconds since the last call in which this process was running.
            early: True accepts a short silence as proof, because a collective has failed.
        """
        if self._verdict or self._closing.is_set():
            return self._verdict or None
        if self._looks != self._seen_looks:
            self._seen_looks, self._still = self._looks, 0.0
        self._still += elapsed
        if self._failed or self._still > self.timeout - 2 * self._interval:
            return self._store_is_gone()
        # Looks are counted, not seconds, because a suspended machine has lost no process.
        enough = _EARLY if early else max(_EARLY, int(self.timeout / self._interval) - 2)
        silent = [rank for rank, looks in self._silent.items() if looks >= enough]
        if silent:
            return self._tell(f"rank {silent[0]} gave no sign of life for {enough * self._interval:.3g} s")
        return None

    def tell(self, words: str) -> None:
        """Tells the other processes why this process ends, unless the run already ends."""
        self._tell(f"rank {self._rank} {' '.join(words.split())}")

    def leave(self) -> None:
        """Tells the other processes not to wait for this process. This takes at most a second."""
        self._closing.set()
        marking = threading.Thread(target=self._mark, daemon=True)
        marking.start()
        marking.join(1.0)

    @property
    def is_first(self) -> bool:
        """True if no lower rank is alive. This process then prints and saves for the run."""
        gone = {rank for rank, looks in self._silent.items() if looks >= _EARLY}
        if found := re.match(r"rank (\d+) ", self._verdict):
            gone.add(int(found[1]))
        return not any(other < self._rank and other not in gone for other in self._others)

    @property
    def all_alive(self) -> bool:
        """True if every process gave a sign of life recently."""
        return not self._failed and max(self._silent.values()) < _EARLY

    def close(self) -> None:
        """Tells the other processes that this process ends normally.

        The process that keeps the store waits for the other processes. After an error, the other processes also wait
        for rank 0. Otherwise a launcher that sees one process end would end rank 0 before rank 0 has printed the
        reason.
        """
        self._closing.set()
        self._thread.join(self.timeout)
        if self._thread.is_alive():
            return
        patience = 3 * self._interval if self._verdict else self.timeout
        self._mark()
        with contextlib.suppress(RuntimeError):
            deadline, before = 0.0, []
            waited: list[int] = []
            if self._rank == 0 and not self._kept_by_launcher:
                waited = self._others
            elif self._rank and self._verdict:
                waited = [0]
            while waited:
                numbers = [self._store.add(self._key(other), 0) for other in waited]
                if numbers != before:
                    deadline, before = time.monotonic() + patience, numbers
                if min(numbers) >= _ENDED or time.monotonic() > deadline:
                    return
                time.sleep(0.02)

    def _mark(self) -> None:
        """Marks this process as ended in the store."""
        with contextlib.suppress(RuntimeError):
            self._store.add(self._key(self._rank), _ENDED)

    def _tell(self, words: str) -> str:
        """Stores the reason for the end of the run; returns the reason that was stored first."""
        try:
            self._verdict = self._store.compare_set(f"{self._prefix}/end", "", words).decode() or words
        except RuntimeError:
            self._verdict = words
        return self._verdict

    def _beat(self) -> None:
        """Gives signs of life and reads those of the other processes, until `close` or a failed store."""
        while not self._closing.wait(self._interval):
            try:
                self._store.add(self._key(self._rank), 1)
                for other in self._others:
                    number = self._store.add(self._key(other), 0)
                    moved = number != self._numbers[other] or number >= _ENDED
                    self._numbers[other], self._silent[other] = number, 0 if moved else self._silent[other] + 1
                self._verdict = self._verdict or self._store.compare_set(f"{self._prefix}/end", "", "").decode()
                self._looks += 1
            except RuntimeError as error:
                self._failed = str(error)
                return

    def _store_is_gone(self) -> str | None:
        """Returns a phrase about rank 0, which kept the store; None if the launcher kept the store."""
        if self._kept_by_launcher:  # the store has ended with the launcher, which `Stop` notices
            return None
        self._verdict = "rank 0 has ended or does not answer"
        return self._verdict

    def _key(self, rank: int) -> str:
        return f"{self._prefix}/{rank}"
