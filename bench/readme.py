"""Writes the tables of the READMEs from the rows in bench/results.

A table stands between the lines `<!-- NAME: make readme -->` and `<!-- end of NAME -->`. Only these tables hold
measured numbers, so that no number becomes stale when the code changes.
"""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Callable
from pathlib import PurePath

from bench import record
from bench.__main__ import COMMANDS
from bench.options import command_parser
from bench.step.compare import COMPILED

PAGES = ("README.md", "bench/README.md", "configs/README.md", "fastmim/README.md", "kernels/README.md")
METHODS = {
    "a2mim": "A2MIM",
    "convmae": "ConvMAE",
    "lsmae": "LSMAE",
    "mae": "MAE",
    "pixmim": "PixMIM",
    "simmim": "SimMIM",
    "um_mae": "UM-MAE",
}
"""Names of the methods, by their folders in configs/."""
MEMORY = {
    "cpu": ("saved for backward MiB/image", "activations that the forward pass keeps for the backward pass"),
    "cuda": ("peak MiB above weights, gradients, optimizer", "peak above weights, gradients and optimizer state"),
}
"""Column of memory in a step row, and its meaning, by device."""
MARKED = re.compile(r"(<!-- (\w+): make readme -->\n)(.*?)(<!-- end of \2 -->\n)", re.DOTALL)


def short(value: float) -> str:
    """Returns a number with three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def step_rows() -> dict[tuple[str, str], dict[str, tuple[dict, dict]]]:
    """Returns {(config, hardware): {arm: (row of fastmim, row of the arm)}}, the newest run of each arm.

    Both rows of a pair come from one run, in which the two arms took turns.
    """
    ours: dict[tuple, dict] = {}
    found: dict[tuple[str, str], dict[str, tuple[dict, dict]]] = {}
    for row in record.read("step"):
        if "config" not in row or "images/s" not in row:
            continue
        origin, (setting, arm) = row["provenance"], row["case"].rsplit(", ", 1)
        run = (setting, origin["hardware"], origin["commit"], origin["command"], origin["date"])
        if arm == "ours":
            ours[run] = row
        elif run in ours:
            found.setdefault((row["config"], origin["hardware"]), {})[arm] = (ours[run], row)
    return found


def memory(row: dict) -> float | None:
    """Returns the memory of a step row in MiB per image, or None if it was not measured."""
    device = row["provenance"]["device"]
    value = row.get(MEMORY[device][0])
    return value / batch(row) if value is not None and device == "cuda" else value


def batch(row: dict) -> int:
    """Returns the images in a step."""
    return round(row["images/s"] * row["s/step"])


def model(config: str) -> tuple[str, str]:
    """Returns the method and the model of a config's path; the model's name leaves out the schedule."""
    path = PurePath(config)
    return METHODS.get(path.parts[1], path.parts[1]), re.sub(r"_\d+ep$", "", path.stem)


def origin_of(rows: list[dict]) -> str:
    """Returns the machine and the commits of rows of one machine, as the end of a sentence."""
    first = rows[0]["provenance"]
    commits = dict.fromkeys(row["provenance"]["commit"][:7] + "+" * row["provenance"]["dirty"] for row in rows)
    place = f"{'CPU: ' * (first['device'] == 'cpu')}{first['hardware']}"
    return f"{place}; commit{'s' * (len(commits) > 1)} {', '.join(sorted(commits))}"


def published_pairs() -> dict[str, dict[tuple[str, str], tuple[str, dict, dict]]]:
    """Returns {hardware: {(method, model): (config, row of fastmim, row of the published code)}}.

    Rows of a GPU take the place of a CPU's.
    """
    pairs = {key: arms["eager"] for key, arms in step_rows().items() if "eager" in arms}
    if gpu := {key: pair for key, pair in pairs.items() if pair[0]["provenance"]["device"] == "cuda"}:
        pairs = gpu
    found: dict[str, dict] = {}
    for (config, hardware), pair in sorted(pairs.items()):
        method, name = model(config)
        baseline = "simmim" in name and method != "SimMIM"  # to which a paper compares its own method
        if not baseline:
            found.setdefault(hardware, {})[method, name] = (config, *pair)
    return found


def claim() -> str:
    """Returns a sentence on time and memory of steps beside the published code, over all measured models."""
    hardware, chosen = next(iter(published_pairs().items()))
    pairs = [(ours, theirs) for _, ours, theirs in chosen.values()]
    device = pairs[0][0]["provenance"]["device"]
    speed = [theirs["ours is faster"] for _, theirs in pairs]
    kept = [(memory(ours), memory(theirs)) for ours, theirs in pairs]
    ratio = [ours / theirs for ours, theirs in kept if ours and theirs]
    sentence = (
        f"A training step is {min(speed):.2f} to {max(speed):.2f} times as fast as with the published code, and "
        f"keeps {min(ratio):.2f} to {max(ratio):.2f} times the memory ({'CPU: ' * (device == 'cpu')}{hardware}; "
        f"[table](#speed-and-memory))."
    )
    return f"\n{textwrap.fill(sentence, 120, break_long_words=False, break_on_hyphens=False)}\n"


def results() -> str:
    """Returns a step's time and memory beside the published code: a line for each method and model.

    Rows of a GPU take the place of a CPU's. Hours are projected on a GPU only.
    """
    hours = {(row["config"], row["provenance"]["hardware"]): row for row in record.read("hours")}
    text = ""
    for hardware, chosen in published_pairs().items():
        rows = [row for _, *pair in chosen.values() for row in pair]
        device = rows[0]["provenance"]["device"]
        projected = {
            key: hours[config, hardware] for key, (config, *_) in chosen.items() if (config, hardware) in hours
        }
        projected = projected if device == "cuda" else {}
        lines = []
        for (method, name), (config, ours, theirs) in chosen.items():
            kept = [memory(row) for row in (ours, theirs)]
            cells = [method, f"[{name}]({config})"]
            cells += [*(short(1e3 / row["images/s"]) for row in (ours, theirs)), f"{theirs['ours is faster']:.2f}x"]
            cells += ["" if value is None else short(value) for value in kept]
            if projected:
                row = projected.get((method, name))
                cells.append(f"{short(row['projected hours'])} ({row['epochs']:g} epochs)" if row else "")
            lines.append(cells)
        batches = sorted({batch(row) for row in rows})
        precision = ", ".join(sorted({row["case"].split(", ")[1] for row in rows}))
        text += (
            f"{origin_of(rows)}. {precision}, {' or '.join(map(str, batches))} images a step; forward, backward and "
            f"AdamW. Memory: {MEMORY[device][1]}.\n\n"
        )
        head = ["method", "model", "ms/image", "published", "speed-up", "MiB/image", "published"]
        text += record.markdown([*head, *(["hours, projected"] if projected else [])], lines)
    return text


def steps() -> str:
    """Returns the table of all configs: the time of each published arm as a multiple of fastmim's time."""
    lines: dict[str, list[list[str]]] = {}
    for (config, _), arms in sorted(step_rows().items()):
        compiled = [arms[arm] for arm in COMPILED if arm in arms]
        best = min(compiled, key=lambda pair: pair[1]["ours is faster"], default=None)
        pairs = [arms.get("eager"), arms.get("sdpa"), best]
        newest = next(pair for pair in pairs if pair)
        ratios = [f"{pair[1]['ours is faster']:.2f}" if pair else "" for pair in pairs]
        kept = [memory(row) for row in newest]
        ratio = f"{kept[0] / kept[1]:.2f}" if kept[0] and kept[1] else ""
        machine, commit = origin_of(list(newest)).split("; commit ")
        lines.setdefault(machine, []).append(["/".join(model(config)), str(batch(newest[0])), *ratios, ratio, commit])
    head = ["config", "batch", "eager", "sdpa", "compile", "memory", "commit"]
    return "\n".join(f"{machine}:\n\n{record.markdown(head, some)}" for machine, some in lines.items())


def transfer() -> str:
    """Returns the mean and the spread over seeds of each arm of the transfer campaign that has a score."""
    arms: dict[tuple[str, str], dict[int, dict]] = {}
    for row in record.read("transfer"):
        if "score" in row:
            arms.setdefault((row["proof"], row["arm"]), {})[row["seed"]] = row
    lines = []
    for (proof, arm), rows in arms.items():
        scores, seconds = ([row[key] for row in rows.values()] for key in ("score", "CPU seconds"))
        origins = [rows[seed]["provenance"] for seed in sorted(rows)]
        lines.append(
            [
                proof,
                arm,
                f"{100 * statistics.mean(scores):.1f}",
                f"{100 * (max(scores) - min(scores)):.1f} of {len(scores)} seeds",
                f"{statistics.mean(seconds):.0f}",
                ", ".join(dict.fromkeys(origin["hardware"] for origin in origins)),
                ", ".join(dict.fromkeys(origin["commit"][:7] for origin in origins)),
            ]
        )
    return record.markdown(["data and network", "arm", "mean %", "spread", "CPU seconds", "hardware", "commit"], lines)


def commands() -> str:
    """Returns a line for each command of the benchmarks."""
    lines = [[f"`{name}`", command.question, command.time] for name, command in COMMANDS.items()]
    return record.markdown(["command", "question", "time"], lines)


TABLES: dict[str, Callable[[], str]] = {
    "claim": claim,
    "results": results,
    "steps": steps,
    "transfer": transfer,
    "commands": commands,
}
"""Functions that make the tables, by the names in the markers."""


def rendered(page: str) -> str:
    """Returns the text of a page with fresh tables.

    Raises:
        ValueError: a marker names no table, or has no end.
    """
    found = [match[2] for match in MARKED.finditer(page)]
    named = re.findall(r"<!-- (\w+): make readme -->", page)
    if wrong := [name for name in named if name not in TABLES] or [name for name in named if named != found]:
        raise ValueError(
            f"expected <!-- NAME: make readme --> and <!-- end of NAME --> around a table, NAME one of "
            f"{', '.join(TABLES)}; got {wrong[0]}"
        )
    return MARKED.sub(lambda match: match[1] + TABLES[match[2]]() + match[4], page)


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench readme`."""
    parser = command_parser("readme", __doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a table is stale")
    args = parser.parse_args(argv)
    stale = []
    for name in PAGES:
        path = record.ROOT / name
        if not path.exists():
            continue
        now = path.read_text()
        try:
            fresh = rendered(now)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if fresh != now:
            stale.append(name)
        if not args.check:
            path.write_text(fresh)
    if args.check and stale:
        raise SystemExit(f"stale tables in {', '.join(stale)}: run make readme")
