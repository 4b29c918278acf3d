"""Samples of large sweeps: rows that `make test` runs, and rows that only the campaign runs."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable
from itertools import combinations

import pytest


def pairs(*values: Hashable) -> Iterable[Hashable]:
    """Yields every pair of values of a row, with their columns."""
    return combinations(enumerate(values), 2)


def covering(
    rows: Iterable[tuple], facts: Callable[..., Iterable[Hashable]] = pairs, id: Callable[..., str] | None = None
) -> list:
    """Returns all rows as pytest parameters, of which a small sample is not marked `slow`.

    The sample covers every fact that any row covers. It is chosen greedily and is the same in each process.

    Args:
        rows: one tuple of hashable arguments a test.
        facts: maps a row to the facts that it covers. By default every pair of its values.
        id: maps a row to its name in pytest's output.
    """
    rows = list(rows)
    covered = [set(facts(*row)) for row in rows]
    missing = set().union(*covered)
    sample, queue = set(), [(-len(found), index) for index, found in enumerate(covered)]
    heapq.heapify(queue)
    while missing:
        gain, index = heapq.heappop(queue)
        if (now := len(missing & covered[index])) == -gain:
            sample.add(index)
            missing -= covered[index]
        elif now:  # rows that were chosen later cover some of these facts
            heapq.heappush(queue, (-now, index))
    marks = [() if index in sample else pytest.mark.slow for index in range(len(rows))]
    names = [id(*row) if id else None for row in rows]
    return [pytest.param(*row, marks=mark, id=name) for row, mark, name in zip(rows, marks, names, strict=True)]
