"""The order of samples: which image is at which position of an endless stream, as a pure function.

May import tokens and fastmim_kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmim_kernels.philox import philox

from ..samples import Stream, sample_id

_MAX_EPOCHS = 2**23  # a sample id holds epoch * 256 + repeat in 31 bits
_MAX_REPEATS = 256


class Sampler:
    """An endless stream of sample ids: one permutation of all (index, repeat) pairs after another, one for each epoch.

    Positions of the stream run on across epochs, and update s trains on positions [s * G, (s + 1) * G), G the global
    batch. The loaders of the official code instead drop the samples that do not fill the last batch of an epoch: there
    an epoch means a different number of samples for every batch size and process count, a few samples are lost each
    time, and a data set smaller than a batch trains on nothing. Here every sample comes exactly once an epoch whatever
    the layout, and a batch may hold the end of one epoch and the start of the next.
    """

    def __init__(self, indices: Tensor | int, seed: int, repeats: int = 1, together: bool = False):
        """
        Args:
            indices: (N,) int64 manifest indices that are trained on; an int n means all of 0 .. n-1.
            seed: 0 <= seed < 2**64.
            repeats: times each index comes in a permutation, each time as a sample of its own.
            together: whether those come one after the other.
        Raises:
            ValueError: no indices, or `repeats` not in 1 .. 256.
        """
        indices = torch.arange(indices) if isinstance(indices, int) else indices
        if not len(indices):
            raise ValueError("a sampler needs at least one image, got none")
        if not 1 <= repeats <= _MAX_REPEATS:
            raise ValueError(f"repeats must be in 1 .. {_MAX_REPEATS}, got {repeats}")
        # Sorted, so that ties between keys are broken by index.
        ordered = indices.sort().values
        self._ids = torch.cat([sample_id(ordered, 0, repeat) for repeat in range(repeats)])
        self._seed, self._images = seed, len(indices) if together else len(self._ids)
        self._epochs: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """Samples in a permutation."""
        return len(self._ids)

    def ids(self, start: int, stop: int) -> Tensor:
        """The sample ids at positions [start, stop) of the stream.

        Returns: (stop - start,) int64.
        Raises:
            ValueError: positions out of order, or beyond the epochs that a sample id can count.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"expected 0 <= start <= stop, got start {start}, stop {stop}")
        parts = [self._ids[:0]]
        while start < stop:
            epoch, offset = divmod(start, len(self))
            parts.append(self._epoch(epoch)[offset : offset + stop - start])
            start += len(parts[-1])
        return torch.cat(parts)

    def micro_batch(self, step: int, micro_step: int, *, rank: int, world: int, global_batch: int, size: int) -> Tensor:
        """The sample ids of one process in one micro-step of one update.

        The samples of an update do not depend on how it is split: micro-step m of process r takes `size` positions from
        step * global_batch + (m * world + r) * size.

        Returns: (size,) int64.
        """
        start = step * global_batch + (micro_step * world + rank) * size
        return self.ids(start, start + size)

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            if epoch >= _MAX_EPOCHS:
                raise ValueError(
                    f"the stream of {len(self)} samples an epoch has reached epoch {epoch}; "
                    f"a sample id can count {_MAX_EPOCHS}: train on more images or for fewer updates"
                )
            # A batch reaches over at most one edge of an epoch, unless the data set is smaller than a batch.
            while len(self._epochs) >= 2:
                self._epochs.pop(min(self._epochs))
            ids = sample_id(self._ids, epoch).view(-1, self._images)
            self._epochs[epoch] = ids[:, _keyed_order(self._seed, Stream.ORDER, ids[0])].t().flatten()
        return self._epochs[epoch]


def split_held_out(n: int, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Chooses `held_out` of the indices 0 .. n-1 to be kept out of training.

    Returns: (n - held_out,) and (held_out,) int64, each ascending.
    Raises:
        ValueError: nothing would be left to train on.
    """
    if not 0 <= held_out < n:
        raise ValueError(
            f"{held_out} held-out images of {n} leave nothing to train on: lower data.held_out or add images"
        )
    order = _keyed_order(seed, Stream.HELD_OUT, torch.arange(n))
    return order[held_out:].sort().values, order[:held_out].sort().values


def _keyed_order(seed: int, stream: int, ids: Tensor) -> Tensor:
    """The permutation that sorts `ids` by a 64-bit key drawn for each; of equal keys the earlier comes first."""
    # In pieces that stay in the CPU's cache: ten times faster for the 1.28 M ids of ImageNet.
    words = torch.cat([philox(seed, stream, piece, 2) for piece in ids.split(2**14)])
    return torch.argsort(words[:, 0] << 32 | words[:, 1], stable=True)
