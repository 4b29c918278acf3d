"""Prefetches labels (boxes, masks) in worker threads, in step with the image loader.

May import tokens.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from ..samples import sample_index
from .away import DataAwayError
from .loader import Loaded, Loader
from .quarantine import BadFilesError


class Ahead:
    """A loader that gives each sample its label: `close` it.

    An image without a label, or with one that does not fit the image, is a bad file: another takes its place.
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
            make: makes a label from the index of the image that is shown and a sample id, () int64; called in any
                thread. Raises BadFilesError if it cannot.
            check: takes the index, the label, and the image's (height, width); raises BadFilesError if the label does
                not fit the image.
        """
        self._loader, self._make, self._check = loader, make, check
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fastmim-ahead")

    def batches(self, stream: Iterable[Tensor]) -> Iterator[tuple[Loaded, list[Any]]]:
        """Yields the training samples of every ids of `stream`, in order, as `Loader.loaded` does, with their labels.

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
        """Returns the label of one row of a batch, after replacing images that have none."""
        sample = loaded.ids[row]
        while True:
            index = int(loaded.indices[row])
            try:
                # No label was made ahead for an image that replaces a bad one.
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
