"""Runs one benchmark, `python -m bench NAME ...`; without a name, lists the benchmarks."""

from __future__ import annotations

import importlib
import sys
import textwrap
from typing import NamedTuple

from fastmim.host.command import nearest, refusing

PROG = "python -m bench"


class Command(NamedTuple):
    """One command: the module whose `main(words)` runs it, the question it answers, and how long it takes."""

    module: str
    question: str
    time: str


COMMANDS = {
    "ops": Command("ops.speed", "How fast is each op against torch, torch.compile and the published code?", "30 min"),
    "compile": Command("ops.compile", "What do the Triton kernels compile to on three generations of GPUs?", "10 min"),
    "sanitize": Command("ops.sanitize", "Does compute-sanitizer find fault with a kernel? (GPU)", "minutes"),
    "report": Command("ops.report", "Which targets do the ops reach? Writes results/kernels.md.", "seconds"),
    "compare": Command("step.compare", "How much faster is a training step than the published code's?", "10 min"),
    "step": Command("step.engine", "What takes the time in fastmim's own step?", "2 min a config"),
    "hours": Command("step.hours", "How long would a config's schedule take on this machine?", "2 min a config"),
    "memory": Command("step.memory", "How much memory does training take, and which batch fits?", "1 min a case"),
    "zero": Command("step.zero", "Do the ZeRO stages agree, and how fast and large are they?", "5 min"),
    "loader": Command("step.loader", "How many images a second do loaders deliver?", "5 min"),
    "flops": Command("step.flops", "How many FLOPs does a forward pass take?", "10 s a config"),
    "sdpa": Command("step.sdpa", "Which attention kernel of torch is fastest at these sizes? (GPU)", "15 s"),
    "learns": Command("learning", "Do short runs learn more than trivial predictors?", "minutes"),
    "gpu_check": Command("gpu_check", "Do all checks pass on a GPU? Runs the whole round. (GPU)", "10 min"),
    "rows": Command("rows", "Which rows are recorded? Prints the newest of each case.", "seconds"),
    "readme": Command("readme", "Are the tables of the READMEs fresh? Writes them.", "seconds"),
}
"""Commands by the names that a person types."""


def overview() -> str:
    """Returns the list of commands, each with its question and its time."""
    lines = [f"usage: {PROG} NAME ...", "", f"`{PROG} NAME --help` describes the options of a command.", ""]
    for name, command in COMMANDS.items():
        first, *more = textwrap.wrap(command.question, 80)
        lines += [f"{name:<12}{first:<82}{command.time}", *(" " * 12 + line for line in more)]
    return "\n".join(lines)


def run(words: list[str]) -> int | None:
    """Runs the command that the first word names, with the other words as arguments.

    Returns: the exit status.
    Raises:
        SystemExit: the command ended with its own status, or refused its arguments.
    """
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    name, *options = words
    if name not in COMMANDS:
        with refusing(PROG):
            raise ValueError(f"expected one of {', '.join(COMMANDS)}, got {name!r}{nearest(name, COMMANDS)}")
    module = importlib.import_module(f"bench.{COMMANDS[name].module}")
    with refusing(f"{PROG} {name}"):
        return module.main(options)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
