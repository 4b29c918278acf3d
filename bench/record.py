"""Rows of results with their provenance in `bench/results`, checked when written and when read.

A row must hold the command of its measurement, and no path of a machine.
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
"""Keys of a row's provenance, and their types."""
# Settings of threads and of the allocator change the measurements.
ENVIRONMENT = re.compile(r"^(OMP|MKL|KMP|MALLOC|THP|TRITON|PYTORCH|CUDA)_\w+|^GLIBC_TUNABLES$|^LD_PRELOAD$")
COMMAND = re.compile(r"python3? (-u )?-m [\w.]+|(python3? |deepspeed .*)[\w./-]+\.py")
ABSOLUTE = re.compile(r"(?:^|[^\w.*/-])(?:~?/[\w.-]+/|[A-Za-z]:\\)|^/|file://")


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """Returns a Markdown table."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *lines))


def record(row: dict[str, Any], theme: str) -> Path:
    """Appends a measured row, with its provenance, to a file of bench/results.

    The file is `bench/results/<theme>_<hardware>_<yyyymm>.jsonl`.

    Args:
        row: "case" (name of the measured case), "device" ("cpu" or "cuda"), and columns, at least one of them a number.
        theme: subject of the file, such as "step".

    Returns:
        The file.

    Raises:
        ValueError: `check` refuses the row.
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
    """Option `--record`, which raises an error before the measurement if rows cannot be recorded."""

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
        ValueError: `check` would refuse a row, or there is neither a git history nor a commit in FASTMIM_COMMIT.
    """
    check({"case": "a row", "number": 0, "provenance": provenance("cuda" if torch.cuda.is_available() else "cpu")})


def provenance(device: str) -> dict[str, Any]:
    """Returns the place, time and command of a measurement of this process.

    Args:
        device: "cpu" or "cuda".

    Raises:
        ValueError: there is neither a git history nor a commit in FASTMIM_COMMIT.
    """
    # A copy of the tree on another machine has no history, so the user names the commit.
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
    """Checks that a row has its provenance, and holds no path and no name of a machine.

    Raises:
        ValueError: a value is wrong. The message names the key, the expected value and the found value.
    """
    if not (isinstance(row.get("case"), str) and row["case"]):
        raise ValueError(f"case: expected the name of the measured case, got {row.get('case')!r}")
    numbers = [k for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)]
    if not numbers:
        raise ValueError(f"{row['case']}: expected at least one measured number, got columns {sorted(row)}")
    origin = row.get("provenance")
    if not isinstance(origin, dict):
        raise ValueError(f"{row['case']}: expected a provenance, got {origin!r}; write rows with bench.record.record")
    for key, kind in PROVENANCE.items():
        if not isinstance(origin.get(key), kind):
            raise ValueError(f"{row['case']}: provenance.{key}: expected {kind.__name__}, got {origin.get(key)!r}")
    if not COMMAND.match(origin["command"]):
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
    """Returns all rows of a theme, checked, the oldest first.

    Raises:
        ValueError: `check` refuses a row; names the file and the line.
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


def strings(value: Any) -> list[str]:
    """Returns every string inside a JSON value."""
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in strings(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def git(*arguments: str) -> str:
    """Returns the output of a git command in this repository.

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
    """Returns the command for use on other machines: paths are relative, or names only."""
    return " ".join(["python", *(public(argument) for argument in argv[1:])])


def public(text: str) -> str:
    """Returns a text with absolute paths replaced, so that it says nothing about this machine."""
    return re.sub(r"(?<![\w.])/[\w./-]+", lambda match: relative(Path(match[0])), text)


def relative(path: PurePath) -> str:
    """Returns a path relative to the repository, or only the name of a path outside it."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that compute."""
    found = {"python": platform.python_version()}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"].lower()
        if name in ("torch", "triton", "deepspeed", "timm") or name.startswith("nvidia-dali"):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def cpu() -> str:
    """Returns the model and the cores of the processor, such as "AMD EPYC, 2 cores"."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else []
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def gpu() -> str:
    """Returns name, driver and power limit of the GPU, e.g. "NVIDIA H200, driver 580.65, 700.00 W"."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader"]
    lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
    name, driver, power = lines[torch.cuda.current_device()].split(", ")
    return f"{name}, driver {driver}, {power}"
