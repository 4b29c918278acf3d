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
from .away import DataAwayError
from .loader import Loaded, Loader
from .quarantine import BadFilesError


class Ahead:
    """A loader whose samples have something beside them: `close` it.

    An image of which nothing can be made, or nothing that fits the image, is a bad file: another takes its place.
    """

    def __init__(
        self,
        loader: Loader,
        make: Callable[[int, Tensor], Any],
        check: Callable[[int, Any, tuple[int, int]], None],
        threads: int,
    ):
        """
        Args:
            loader: of the images; not closed with this one.
            make: from the index of the image that is shown and a sample id, () int64; called in any thread.
                Raises BadFilesError if it cannot.
            check: from the index, what was made, and the image's (height, width); raises BadFilesError if they do not
                fit each other.
        """
        self._loader, self._make, self._check = loader, make, check
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fastmim-ahead")

    def batches(self, stream: Iterable[Tensor]) -> Iterator[tuple[Loaded, list[Any]]]:
        """The training samples of every ids of `stream`, in order, as `Loader.loaded`, and what was made for each.

        Raises:
            BadFilesError: as `Loader.loaded`; and whatever else `make` raises.
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
                    made = [self._beside(loaded, row, future) for row, future in enumerate(waiting.popleft())]
                    yield loaded, made
        finally:
            for future in (future for futures in waiting for future in futures):
                future.cancel()

    def _beside(self, loaded: Loaded, row: int, future: Future) -> Any:
        """What is beside one row of a batch, which then shows an image of which something can be made."""
        sample = loaded.ids[row]
        while True:
            index = int(loaded.indices[row])
            try:
                # For an image in the place of a bad one nothing was made ahead.
                made = future.result() if index == sample_index(sample) else self._make(index, sample)
                self._check(index, made, loaded.sizes[row])
                return made
            except DataAwayError:
                raise
            except BadFilesError as error:
                reason = str(error)
            self._loader.replace(loaded, row, reason)

    def close(self) -> None:
        """Drops what has not begun, waits for the rest, ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
