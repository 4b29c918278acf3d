"""What goes beside images, made of each sample in threads of its own, as far ahead as the loader loads.

May import tokens.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from ..tokens import sample_index
from .loader import Loaded, Loader


class Ahead:
    """A loader whose samples have something beside them: `close` it."""

    def __init__(self, loader: Loader, make: Callable[[int, Tensor], Any], threads: int):
        """
        Args:
            loader: of the images; not closed with this one.
            make: from the index of the image that is shown and a sample id, () int64; called in any thread.
        """
        self._loader, self._make = loader, make
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fastmim-ahead")

    def batches(self, stream: Iterable[Tensor]) -> Iterator[tuple[Loaded, list[Any]]]:
        """The training samples of every ids of `stream`, in order, as `Loader.loaded`, and what was made for each.

        Raises:
            BadFilesError: as `Loader.loaded`; and whatever `make` raises.
        """
        waiting: deque[list[Future]] = deque()

        def ahead() -> Iterator[Tensor]:
            for ids in stream:
                indices = sample_index(ids).tolist()
                waiting.append([self._pool.submit(self._make, *each) for each in zip(indices, ids, strict=True)])
                yield ids

        try:
            with contextlib.closing(self._loader.loaded(ahead())) as batches:
                for loaded in batches:
                    rows = zip(loaded.ids, loaded.indices.tolist(), waiting.popleft(), strict=True)
                    # For an image in the place of a bad one nothing was made ahead.
                    yield (
                        loaded,
                        [
                            future.result() if index == sample_index(sample) else self._make(index, sample)
                            for sample, index, future in rows
                        ],
                    )
        finally:
            for future in (future for futures in waiting for future in futures):
                future.cancel()

    def close(self) -> None:
        """Drops what has not begun, waits for the rest, ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
