"""The order of samples: a pure function from a position in an endless stream to a sample id."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmim_kernels.philox import philox

from ..samples import Stream, sample_id

_MAX_EPOCHS = 2**23  # a sample id holds epoch * 256 + repeat in 31 bits
_MAX_REPEATS = 256


class Sampler:
    """An endless stream of sample ids: a new permutation of all (index, repeat) pairs in each epoch.

    Positions run on across epochs. Update s trains on positions [s * G, (s + 1) * G), where G is the global batch. So a
    batch may hold the end of one epoch and the start of the next, and every sample comes exactly once in an epoch, for
    any batch size and number of processes.

    The loaders of the official code instead drop the samples that do not fill the last batch of an epoch. There, the
    samples of an epoch depend on batch size and process count, and a data set smaller than a batch trains on nothing.
    """

    def __init__(self, indices: Tensor | int, seed: int, repeats: int = 1, together: bool = False):
        """Checks and stores the settings.

        Args:
            indices: (N,) int64, manifest indices to train on; an int n means 0 .. n-1.
            seed: seed of the permutations, 0 <= seed < 2**64.
            repeats: number of samples of each image in an epoch.
            together: True keeps the repeats of an image next to each other.

        Raises:
            ValueError: there are no indices, or `repeats` is not in 1 .. 256.
        """
        indices = torch.arange(indices) if isinstance(indices, int) else indices
        if not len(indices):
            raise ValueError("a sampler needs at least one image, got none")
        if not 1 <= repeats <= _MAX_REPEATS:
            raise ValueError(f"repeats must be in 1 .. {_MAX_REPEATS}, got {repeats}")
        # Sorted, so that equal keys are ordered by index.
        ordered = indices.sort().values
        self._ids = torch.cat([sample_id(ordered, 0, repeat) for repeat in range(repeats)])
        self._seed, self._images = seed, len(indices) if together else len(self._ids)
        self._epochs: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """Returns the number of samples in an epoch."""
        return len(self._ids)

    def ids(self, start: int, stop: int) -> Tensor:
        """Returns the sample ids at positions [start, stop) of the stream.

        Returns: (stop - start,) int64.

        Raises:
            ValueError: `stop` is before `start`, or the epoch is too large for a sample id.
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
        """Returns the sample ids of one process in one micro-step of one update.

        Micro-step m of process r takes the `size` positions from step * global_batch + (m * world + r) * size on. So
        the samples of an update do not depend on the number of processes or micro-steps.

        Args:
            step: number of the update, from 0.
            micro_step: number of the micro-step within the update, from 0.
            rank: number of the process, from 0.
            world: number of processes.
            global_batch: samples of one update.
            size: samples of one process in one micro-step.

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
            # Two epochs are enough: a batch spans more only if the data set is smaller than a batch.
            while len(self._epochs) >= 2:
                self._epochs.pop(min(self._epochs))
            ids = sample_id(self._ids, epoch).view(-1, self._images)
            self._epochs[epoch] = ids[:, _keyed_order(self._seed, Stream.ORDER, ids[0])].t().flatten()
        return self._epochs[epoch]


def split_held_out(n: int, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Splits the indices 0 .. n-1 into training and held-out indices.

    Args:
        n: number of images.
        held_out: number of images to hold out.
        seed: 0 <= seed < 2**64.

    Returns: training indices (n - held_out,) and held-out indices (held_out,), int64, each ascending.

    Raises:
        ValueError: no image would be left to train on.
    """
    if not 0 <= held_out < n:
        raise ValueError(
            f"{held_out} held-out images of {n} leave nothing to train on: lower data.held_out or add images"
        )
    order = _keyed_order(seed, Stream.HELD_OUT, torch.arange(n))
    return order[held_out:].sort().values, order[:held_out].sort().values


def _keyed_order(seed: int, stream: int, ids: Tensor) -> Tensor:
    """Returns the permutation that sorts `ids` by a 64-bit key drawn for each id.

    Ids with equal keys keep their order.
    """
    # Pieces stay in the CPU's cache, which is much faster for the 1.28 M ids of ImageNet.
    words = torch.cat([philox(seed, stream, piece, 2) for piece in ids.split(2**14)])
    return torch.argsort(words[:, 0] << 32 | words[:, 1], stable=True)
