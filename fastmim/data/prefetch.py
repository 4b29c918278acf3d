"""Prefetching of labels (boxes, label maps) in worker threads, in step with the image loader."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from ..samples import sample_index
from .availability import DataUnavailableError
from .loader import LoadedBatch, Loader
from .quarantine import BadFilesError


class LabelPrefetcher:
    """A wrapper of a loader that adds a label to each sample.

    An image is a bad file if its label is missing or does not fit the image. Another image then takes its place. The
    prefetcher owns threads: call `close` at the end.
    """

    def __init__(
        self,
        loader: Loader,
        make: Callable[[int, Tensor], Any],
        check: Callable[[int, Any, tuple[int, int]], None],
        threads: int,
    ):
        """Starts the threads.

        Args:
            loader: loads the images. `close` does not close this loader.
            make: makes a label from the manifest index of the image and a sample id, () int64. Called in any thread.
                Raises BadFilesError if the label cannot be made.
            check: takes the index, the label and the (height, width) of the image. Raises BadFilesError if the label
                does not fit the image.
            threads: number of threads that make labels.
        """
        self._loader, self._make, self._check = loader, make, check
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fastmim-labels")

    def batches(self, stream: Iterable[Tensor]) -> Generator[tuple[LoadedBatch, list[Any]]]:
        """Yields the batch of each ids tensor of `stream`, in order, with the label of each sample.

        Raises:
            BadFilesError: an image and all images that could replace it are bad. Other errors of `make` are raised too.
        """
        waiting: deque[list[Future]] = deque()

        def submitted() -> Iterator[Tensor]:
            for ids in stream:
                indices = sample_index(ids).tolist()
                waiting.append([self._pool.submit(self._make, *each) for each in zip(indices, ids, strict=True)])
                yield ids

        try:
            with contextlib.closing(self._loader.loaded_batches(submitted())) as batches:
                for batch in batches:
                    labels = [self._label(batch, row, future) for row, future in enumerate(waiting.popleft())]
                    yield batch, labels
        finally:
            for future in (future for futures in waiting for future in futures):
                future.cancel()

    def _label(self, batch: LoadedBatch, row: int, future: Future) -> Any:
        """Returns the label of one row of a batch, after replacing images whose label cannot be used."""
        sample = batch.ids[row]
        while True:
            index = int(batch.indices[row])
            try:
                # The future belongs to the sample's own image, not to an image that replaced a bad file.
                label = future.result() if index == sample_index(sample) else self._make(index, sample)
                self._check(index, label, batch.sizes[row])
                return label
            except DataUnavailableError:
                raise
            except BadFilesError as error:
                reason = str(error)
            self._loader.replace(batch, row, reason)

    def close(self) -> None:
        """Cancels labels that no thread has begun, waits for the others, and ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
