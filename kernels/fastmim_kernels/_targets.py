"""Speed targets of the ops, which `python -m bench report` compares with measurements."""

from typing import NamedTuple


class Targets(NamedTuple):
    """Targets for cases of one op, and the table of the report that shows them."""

    table: str
    """Title of the table. Ops with the same title share a table and its targets."""
    cpu: dict[str, float] = {}
    """Targets on a CPU.

    eager, compile, official, flex: least speed-up over that implementation. copy: least share of the bandwidth of a
    copy. memory: largest share of the official implementation's memory. us: most microseconds per image.
    """
    cuda: dict[str, float] = {}
    """Targets on a GPU, with the same keys."""
    cases: str = ""
    """Part of the names of the cases that the targets apply to; empty = all cases."""


MOVES = Targets(
    "Gather, compaction, un-shuffle, fills", cpu={"eager": 3, "compile": 1.5, "copy": 0.7}, cuda={"copy": 0.92}
)
"""Targets of ops that move values, with few operations on each value."""
PARTS = Targets("Parts of other ops")
"""Empty targets, for ops that only other ops call."""
