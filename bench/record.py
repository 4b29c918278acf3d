"""Results with their provenance: appended to `bench/results`, checked when read back, rendered as tables.

A row without the command that measured it is refused, as is one that names a machine path. May import
fastmim_kernels and torch.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path, PurePath
from typing import Any

import torch

import fastmim_kernels

ROOT = Path(__file__).parents[1]
RESULTS = Path(os.environ.get("FASTMIM_RESULTS") or ROOT / "bench" / "results")
PROVENANCE = {
    "date": str,
    "commit": str,
    "dirty": bool,
    "command": str,
    "device": str,
    "hardware": str,
    "cores": int,
    "threads": int,
    "versions": dict,
    "backends": dict,
    "environment": dict,
}
# Settings of threads and of the allocator change what is measured.
ENVIRONMENT = re.compile(r"^(OMP|MKL|KMP|MALLOC|THP|TRITON|PYTORCH|CUDA)_\w+|^GLIBC_TUNABLES$|^LD_PRELOAD$")
ABSOLUTE = re.compile(r"(?:^|[^\w.*/-])(?:~?/[\w.-]+/|[A-Za-z]:\\)|^/|file://")


def record(row: dict[str, Any], theme: str) -> Path:
    """Adds where, when and how to a measured row and appends it to `bench/results/<theme>_<hardware>_<yyyymm>.jsonl`.

    Args:
        row: "case" (what was measured), "device" ("cpu" or "cuda"), and columns, at least one of them a number.
        theme: what the file is about, e.g. "step".
    Raises:
        ValueError: see `check`.
    """
    columns = {key: value for key, value in row.items() if key != "device"}
    stored = columns | {"provenance": provenance(row.get("device", ""))}
    check(stored)
    hardware = re.sub(r"[^a-z0-9]+", "-", stored["provenance"]["hardware"].split(",")[0].lower()).strip("-")
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{theme}_{hardware}_{datetime.date.today():%Y%m}.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(stored) + "\n")
    return path


class Record(argparse.Action):
    """Option `--record`: refuses at once, before anything is measured, where rows could not be recorded."""

    def __init__(self, option_strings: list[str], dest: str):
        super().__init__(option_strings, dest, nargs=0, default=False, help="append the rows to bench/results")

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        try:
            ready()
        except ValueError as error:
            parser.error(f"{option_string}: {error}")
        setattr(namespace, self.dest, True)


def ready() -> None:
    """Checks that this process can record rows.

    Raises:
        ValueError: see `check`; or there is neither a git history nor a commit in FASTMIM_COMMIT.
    """
    check({"case": "a row", "number": 0, "provenance": provenance("cuda" if torch.cuda.is_available() else "cpu")})


def provenance(device: str) -> dict[str, Any]:
    """Returns the place, time and command of a measurement of this process.

    Raises:
        ValueError: there is neither a git history nor a commit in FASTMIM_COMMIT.
    """
    # A copy of the tree on another machine has no history: there the commit is told.
    commit = os.environ.get("FASTMIM_COMMIT")
    changes = "" if commit else git("status", "--porcelain", "--", ".", ":!bench/results")
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit or git("rev-parse", "HEAD"),
        "dirty": bool(changes),
        "command": command_line(sys.orig_argv),
        "device": device,
        "hardware": gpu() if device == "cuda" else cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "backends": fastmim_kernels.backends(),
        "environment": {name: public(value) for name, value in os.environ.items() if ENVIRONMENT.match(name)},
    }


def check(row: dict[str, Any]) -> None:
    """Refuses a row that could not be traced back or that tells about somebody's machine.

    Raises:
        ValueError: names the key, what was expected and what was found.
    """
    if not (isinstance(row.get("case"), str) and row["case"]):
        raise ValueError(f"case: expected what was measured, got {row.get('case')!r}")
    numbers = [k for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)]
    if not numbers:
        raise ValueError(f"{row['case']}: expected at least one measured number, got columns {sorted(row)}")
    origin = row.get("provenance")
    if not isinstance(origin, dict):
        raise ValueError(f"{row['case']}: expected a provenance, got {origin!r}; write rows with bench.record.record")
    for key, kind in PROVENANCE.items():
        if not isinstance(origin.get(key), kind):
            raise ValueError(f"{row['case']}: provenance.{key}: expected {kind.__name__}, got {origin.get(key)!r}")
    if not re.match(r"python3? -m [\w.]+|(python3? |deepspeed .*)[\w./-]+\.py", origin["command"]):
        raise ValueError(
            f"{row['case']}: provenance.command: expected the command that measured the row (python -m ..., python "
            f"FILE or deepspeed FILE), got {origin['command']!r}"
        )
    if origin["device"] not in ("cpu", "cuda"):
        raise ValueError(f"{row['case']}: provenance.device: expected cpu or cuda, got {origin['device']!r}")
    if not re.fullmatch(r"[0-9a-f]{40}", origin["commit"]):
        raise ValueError(f"{row['case']}: provenance.commit: expected a full git hash, got {origin['commit']!r}")
    datetime.date.fromisoformat(origin["date"])
    for text in strings(row):
        if ABSOLUTE.search(text) or (len(platform.node()) > 3 and platform.node() in text):
            raise ValueError(f"{row['case']}: expected no machine path and no host name, got {text!r}")


def read(theme: str) -> list[dict[str, Any]]:
    """All rows of a theme, the oldest first, each checked.

    Raises:
        ValueError: a row that `check` refuses; names the file and the line.
    """
    rows = []
    for path in sorted(RESULTS.glob(f"{theme}_*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            row = json.loads(line)
            try:
                check(row)
            except ValueError as error:
                raise ValueError(f"{path.name}:{number}: {error}") from error
            rows.append(row)
    return sorted(rows, key=lambda row: row["provenance"]["date"])


def table(theme: str) -> str:
    """A Markdown table of the newest row of each (case, hardware) of a theme, ending with hardware, date and commit.

    Raises:
        ValueError: no rows, or a row that `check` refuses.
    """
    newest = {(row["case"], row["provenance"]["hardware"]): row for row in read(theme)}
    if not newest:
        raise ValueError(f"bench/results has no rows of theme {theme!r}")
    columns = list(dict.fromkeys(key for row in newest.values() for key in row if key not in ("case", "provenance")))
    lines = [["case", *columns, "hardware", "date", "commit"], ["---"] * (len(columns) + 4)]
    for row in newest.values():
        origin = row["provenance"]
        values = [cell(row.get(column, "")) for column in columns]
        commit = origin["commit"][:7] + ("+" if origin["dirty"] else "")
        lines.append([row["case"], *values, origin["hardware"], origin["date"], commit])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def cell(value: Any) -> str:
    """Four significant digits are more than any timing here deserves."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def strings(value: Any) -> list[str]:
    """Every string inside a JSON value."""
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in strings(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def git(*arguments: str) -> str:
    """Output of a git command in this repository.

    Raises:
        ValueError: there is no git, or no history.
    """
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(
            "a recorded row names its commit: expected a git history here, found none; give the full hash of the "
            "commit that this tree is a copy of in FASTMIM_COMMIT"
        ) from error


def command_line(argv: list[str]) -> str:
    """The command as somebody else would type it: no interpreter path, other paths relative or bare names."""
    return " ".join(["python", *(public(argument) for argument in argv[1:])])


def public(text: str) -> str:
    """Text whose absolute paths have lost what is particular to this machine."""
    return re.sub(r"(?<![\w.])/[\w./-]+", lambda match: relative(Path(match[0])), text)


def relative(path: PurePath) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def versions() -> dict[str, str]:
    """Versions of Python and of what computes."""
    found = {"python": platform.python_version()}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"].lower()
        if name in ("torch", "triton", "deepspeed", "timm") or name.startswith("nvidia-dali"):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def cpu() -> str:
    """Model and cores of the processor, e.g. "AMD EPYC, 2 cores"."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else []
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def gpu() -> str:
    """Name, driver and power limit of the current GPU, e.g. "NVIDIA H200, driver 580.65, 700.00 W"."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader"]
    lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
    name, driver, power = lines[torch.cuda.current_device()].split(", ")
    return f"{name}, driver {driver}, {power}"
