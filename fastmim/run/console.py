"""Output of a run to the terminal: lines above the progress bar, and the start-up facts."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from ..host.records import put
from ..host.terminal import shown

console = Console(highlight=False, soft_wrap=True)
"""The terminal that lines and the progress bar share."""


def say(text: str) -> None:
    """Prints lines, above the progress bar if there is one. Control characters are escaped."""
    console.print("\n".join(map(shown, text.split("\n"))), markup=False)


def announce(folder: Path, facts: dict[str, str], config: dict) -> None:
    """Prints the facts of a run, and writes facts.json and config.json into the run folder.

    Args:
        folder: the run folder.
        facts: lines to print, by name.
        config: the config as JSON values, every setting resolved.
    """
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        say(f"{name:<{width}}{shown(value)}")
    for name, value in (("facts", facts), ("config", config)):
        put(folder / f"{name}.json", json.dumps(value, indent=2) + "\n", say)


def duration(seconds: float) -> str:
    """Returns seconds in words: "1h02m" for 3725."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
