"""A count of consecutive skipped updates that does not wait for a GPU."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class SkippedInARow:
    """A count of the consecutive skipped updates.

    On a CPU the count is exact. On a GPU, the count is `LAG` updates old on every process. The flag of an update is
    copied after the work of the update, and read when `LAG` further updates are queued.
    """

    LAG = 2
    """Updates between a flag and its reading on a GPU."""

    def __init__(self) -> None:
        self._count = 0
        self._flags: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def add(self, skipped: Tensor) -> int:
        """Adds an update; returns the count.

        Args:
            skipped: () bool, True if the update was skipped.
        """
        copied = None
        if skipped.is_cuda:
            skipped = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(skipped, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._flags.append((skipped, copied))
        if copied is None or len(self._flags) > self.LAG:
            flag, copied = self._flags.popleft()
            if copied is not None:
                copied.synchronize()
            self._count = self._count + 1 if flag else 0
        return self._count
