"""`python -m bench.readme`: writes README.md's tables from the rows in bench/results; `--check` only compares.

Measured numbers stand in these tables only, so that none outlives what it was measured on.
"""

# May import bench.record.

from __future__ import annotations

import statistics

from bench import record
from fastmim.host.command import Parser, refusing

README = record.ROOT / "README.md"
RESULTS = "<!-- results: make readme -->\n", "<!-- end of results -->\n"
TRANSFER = "<!-- transfer: make readme -->\n", "<!-- end of transfer -->\n"
HEADER = "| method | model | epochs | hours | peak GB | accuracy | hardware | commit |\n" + "|---" * 8 + "|\n"
TRANSFER_HEADER = (
    "| data and network | arm | mean % | spread | CPU seconds | hardware | commit |\n" + "|---" * 7 + "|\n"
)

SETTING = ("config", "precision", "stage", "checkpointing", "ranks", "batch")
"""Columns that an hours row and the memory row beside it share."""


def newest(theme: str, *keys: str) -> dict[tuple, dict]:
    """The newest row of a theme for each value of `keys` and each hardware; without what did not fit in memory."""
    rows = [row for row in record.read(theme) if "config" in row and not row.get("out of memory")]
    return {(*(row[key] for key in keys), row["provenance"]["hardware"]): row for row in rows}


def table() -> str:
    """A line for each config and machine whose hours were measured."""
    memory, accuracy = newest("memory", *SETTING), newest("accuracy", "config")
    lines = []
    for (path, hardware), row in sorted(newest("hours", "config").items()):
        peak, reached = memory.get((*(row[key] for key in SETTING), hardware)), accuracy.get((path, hardware))
        origin = row["provenance"]
        _, method, *_, name = path.split("/")
        cells = [
            method,
            f"[{name.removesuffix('.py')}]({path})",
            f"{row['epochs']:g}",
            f"{row['projected hours']:.4g} (projected, {row['images']} images)",
            f"{peak['peak GiB'] * 2**30 / 1e9:.3g} (batch {peak['batch']})" if peak else "not yet",
            f"{reached['top-1 %']:.1f} %" if reached else "not yet",
            (f"{row['ranks']} x " if row["ranks"] > 1 else "")
            + ("CPU: " if origin["device"] == "cpu" else "")
            + hardware,
            origin["commit"][:7] + ("+" if origin["dirty"] else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEADER + "".join(lines)


def transfer() -> str:
    """A line for each arm of the transfer campaign that ends in a number: mean and spread over its seeds."""
    arms: dict[tuple[str, str], dict[int, dict]] = {}
    for row in record.read("transfer"):
        if "score" in row:
            arms.setdefault((row["proof"], row["arm"]), {})[row["seed"]] = row
    lines = []
    for (proof, arm), rows in arms.items():
        scores, seconds = ([row[key] for row in rows.values()] for key in ("score", "CPU seconds"))
        origins = [rows[seed]["provenance"] for seed in sorted(rows)]
        cells = [
            proof,
            arm,
            f"{100 * statistics.mean(scores):.1f}",
            f"{100 * (max(scores) - min(scores)):.1f} of {len(scores)} seeds",
            f"{statistics.mean(seconds):.0f}",
            ", ".join(dict.fromkeys(origin["hardware"] for origin in origins)),
            ", ".join(dict.fromkeys(origin["commit"][:7] for origin in origins)),
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    return TRANSFER_HEADER + "".join(lines)


def rendered(readme: str) -> str:
    """The page with its tables made anew.

    Raises:
        ValueError: the page has not both markers of a table, each once.
    """
    for (start, end), text in ((RESULTS, table()), (TRANSFER, transfer())):
        if readme.count(start) != 1 or readme.count(end) != 1:
            raise ValueError(f"README.md: expected the lines {start.strip()} and {end.strip()} once each")
        before, rest = readme.split(start)
        readme = before + start + text + end + rest.split(end)[1]
    return readme


def main(argv: list[str] | None = None) -> None:
    parser = Parser("python -m bench.readme", __doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the table is stale")
    args = parser.parse_args(argv)
    now = README.read_text()
    fresh = rendered(now)
    if args.check:
        raise SystemExit(now != fresh and "README.md's tables are stale: run make readme")
    README.write_text(fresh)


if __name__ == "__main__":
    with refusing("python -m bench.readme"):
        main()
