"""Prints the newest recorded row of each case and machine, as a Markdown table."""

from __future__ import annotations

from typing import Any

from bench import record
from bench.options import command_parser


def table(theme: str) -> str:
    """Returns a Markdown table of the newest row of each (case, hardware) of a theme.

    The last columns are hardware, date and commit.

    Raises:
        ValueError: there are no rows, or `record.check` refuses a row.
    """
    newest = {(row["case"], row["provenance"]["hardware"]): row for row in record.read(theme)}
    if not newest:
        raise ValueError(f"bench/results has no rows of theme {theme!r}; there are {', '.join(themes())}")
    columns = list(dict.fromkeys(key for row in newest.values() for key in row if key not in ("case", "provenance")))
    lines = [["case", *columns, "hardware", "date", "commit"], ["---"] * (len(columns) + 4)]
    for row in newest.values():
        origin = row["provenance"]
        values = [cell(row.get(column, "")) for column in columns]
        commit = origin["commit"][:7] + ("+" if origin["dirty"] else "")
        lines.append([row["case"], *values, origin["hardware"], origin["date"], commit])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def cell(value: Any) -> str:
    """Returns a value as text, a float with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def themes() -> list[str]:
    """Returns the themes that have rows."""
    return sorted({path.name.split("_")[0] for path in record.RESULTS.glob("*.jsonl")})


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench rows`."""
    parser = command_parser("rows", __doc__)
    parser.add_argument("theme", help=f"one of {', '.join(themes())}")
    print(table(parser.parse_args(argv).theme), end="")
