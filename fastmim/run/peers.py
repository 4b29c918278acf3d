"""Signs of life of a run's processes: a frozen or dead one is noticed by the others. May import torch and terminal.

Each process counts up a number in the launcher's store, in a thread of its own, and reads the others' numbers. A
collective that waits for ever in C++ therefore hides nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from datetime import timedelta

from torch import distributed as dist

_ENDED = 1 << 40  # added to the number of a process that has ended as it should
_LOOKS = 8  # in a timeout
_EARLY = 3  # looks without a sign of life that are enough when a collective has failed


class Peers:
    """The other processes of the run; `close` it when this one has nothing more to do.

    Args:
        timeout: seconds without a sign of life after which a process is lost.
    """

    def __init__(self, rank: int, world: int, timeout: float):
        self._rank, self.timeout = rank, timeout
        self._interval = min(2.0, timeout / _LOOKS)
        self._kept_by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._prefix = f"fastmim/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        # A connection of its own: the one of torch may wait for an answer.
        self._store = dist.TCPStore(
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
        """Returns which process is lost and how that shows, or None while all give signs of life.

        Args:
            elapsed: seconds since the last call, during which this process ran itself.
            early: believe a short silence, as a collective has failed.
        """
        if self._verdict or self._closing.is_set():
            return self._verdict or None
        if self._looks != self._seen_looks:
            self._seen_looks, self._still = self._looks, 0.0
        self._still += elapsed
        if self._failed or self._still > self.timeout - 2 * self._interval:
            return self._store_is_gone()
        # Looks are counted, not seconds: a machine that was suspended has lost nobody.
        enough = _EARLY if early else max(_EARLY, int(self.timeout / self._interval) - 2)
        silent = [rank for rank, looks in self._silent.items() if looks >= enough]
        if silent:
            return self._tell(f"rank {silent[0]} gave no sign of life for {enough * self._interval:.3g} s")
        return None

    def tell(self, words: str) -> None:
        """Tells the others why this process ends, unless the run ends for another reason already."""
        self._tell(f"rank {self._rank} {' '.join(words.split())}")

    def leave(self) -> None:
        """Says that nobody need wait for this process; gives up after a second."""
        self._closing.set()
        marking = threading.Thread(target=self._mark, daemon=True)
        marking.start()
        marking.join(1.0)

    @property
    def is_first(self) -> bool:
        """True if no process of a lower rank is left: this one then speaks and saves for the run."""
        gone = {rank for rank, looks in self._silent.items() if looks >= _EARLY}
        if found := re.match(r"rank (\d+) ", self._verdict):
            gone.add(int(found[1]))
        return not any(other < self._rank and other not in gone for other in self._others)

    @property
    def all_alive(self) -> bool:
        """True if every process gave a sign of life lately."""
        return not self._failed and max(self._silent.values()) < _EARLY

    def close(self) -> None:
        """Says that this process has ended as it should; the one that keeps the store waits for the others.

        When the run ends for an error, the others wait for the first process too. Otherwise a launcher that sees one
        process end would end the first before it has said why.
        """
        self._closing.set()
        self._thread.join(self.timeout)
        if self._thread.is_alive():
            return
        patience = 3 * self._interval if self._verdict else self.timeout
        self._mark()
        with contextlib.suppress(RuntimeError):
            deadline, before = 0.0, []
            keeps = self._rank == 0 and not self._kept_by_launcher
            while waited := self._others if keeps else [0] if self._verdict and self._rank else []:
                numbers = [self._store.add(self._key(other), 0) for other in waited]
                if numbers != before:
                    deadline, before = time.monotonic() + patience, numbers
                if min(numbers) >= _ENDED or time.monotonic() > deadline:
                    return
                time.sleep(0.02)

    def _mark(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._store.add(self._key(self._rank), _ENDED)

    def _tell(self, words: str) -> str:
        """Returns the words of the process that was first to tell."""
        try:
            self._verdict = self._store.compare_set(f"{self._prefix}/end", "", words).decode() or words
        except RuntimeError:
            self._verdict = words
        return self._verdict

    def _beat(self) -> None:
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
        """The launcher's store ends with the launcher, which `Stop` notices; else it ends with the first process."""
        if self._kept_by_launcher:
            return None
        self._verdict = "rank 0 has ended or does not answer"
        return self._verdict

    def _key(self, rank: int) -> str:
        return f"{self._prefix}/{rank}"
