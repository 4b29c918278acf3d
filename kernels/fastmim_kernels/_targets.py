"""Speed targets of the ops, which `python -m bench report` compares with measurements."""

from typing import NamedTuple


class Targets(NamedTuple):
    """The targets of one table of the report, for cases of one op."""

    table: str
    """Title of the table. Ops that name the same title share a table and its targets."""
    cpu: dict[str, float] = {}
    """Targets on a CPU.

    eager, compile, official, flex: least speed-up over that implementation. copy: least share of the bandwidth of a
    copy. memory: largest share of the official implementation's memory. us: most microseconds per image.
    """
    cuda: dict[str, float] = {}
    """Targets on a GPU, with the same keys."""
    cases: str = ""
    """Part of the names of the cases that the targets hold for; empty = all cases."""


MOVES = Targets(
    "Gather, compaction, un-shuffle, fills", cpu={"eager": 3, "compile": 1.5, "copy": 0.7}, cuda={"copy": 0.92}
)
"""Targets of ops that move values with few operations on each."""
PARTS = Targets("Parts of other ops")
"""Targets of ops that other ops call: none."""
