"""`python -m bench.report`: bench/results/kernels.md, what the kernels were to reach and what the rows say.

The newest row of every op, case and machine against its target, why a target was missed (`bench.misses`), floors on an
H200 and what its code looks like, and a roofline plot. `--check` writes nothing. May import bench.record, bench.ops,
bench.misses and fastmim_kernels.
"""

from __future__ import annotations

import argparse
import importlib
import math
from typing import Any, NamedTuple

from bench import ops, record
from bench.misses import MISSES

PAGE, PLOT = record.RESULTS / "kernels.md", record.RESULTS / "ops_roofline.png"
COPY, MATMUL = 4.3e12, {"bf16": 790e12, "fp32": 790e12 / 2 / 3}
"""Of an H200: bytes read and written a second by a copy, 0.9 of its 4.8 TB/s; FLOP/s of a large matrix product, in
float32 of three TF32 ones."""
BATCH = 256


class Group(NamedTuple):
    title: str
    ops: tuple[str, ...]
    cpu: dict[str, float]
    """Targets. eager, compile, official, flex: how many times faster at least. copy: of its bandwidth at least. memory:
    of the official way's at most. us: microseconds per image at most."""
    cuda: dict[str, float]
    """Those on a GPU."""
    part: str = ""
    """Of the case's name, if not all cases are meant."""


GROUPS = (
    Group(
        "Gather, compaction, un-shuffle, fills",
        ("patch_gather", "unshuffle", "mean_fill", "mask_token"),
        {"eager": 3, "compile": 1.5, "copy": 0.7},
        {"copy": 0.92},
    ),
    Group(
        "Patch loss with gradient",
        ("patch_loss",),
        {"eager": 4, "compile": 1.5},
        {"copy": 0.88, "official": 8, "compile": 1.6},
    ),
    Group("Low-pass as PixMIM has it", ("low_pass",), {"official": 3}, {"official": 10}, "pixmim"),
    Group("Low-pass of other radii and sizes", ("low_pass",), {"eager": 1, "official": 1}, {"official": 1}, "radius"),
    Group(
        "Focal frequency, with A2MIM's loss",
        ("composite_residual",),
        {"official": 4, "memory": 0.25},
        {"official": 10, "compile": 6},
    ),
    Group(
        "Window attention with biases",
        ("window_attention",),
        {"official": 2, "memory": 0.3},
        {"official": 3, "flex": 1.5},
    ),
    Group("Uniform masks, one thread", ("uniform_mask",), {"us": 1.5}, {}),
    Group("Random masks, one thread", ("random_mask",), {"us": 1}, {}),
    Group("Masks of blocks, one thread", ("block_mask",), {}, {}),
)
ARMS = {"eager": "reference", "compile": "compiled", "official": "official", "flex": "flex"}
COLUMNS = (*ARMS, "copy", "memory", "us")


def cases_of(op: str):
    return importlib.import_module(f"fastmim_kernels.{op}.cases")


def newest() -> dict[tuple, dict[tuple[str, str], dict]]:
    """(op, case, dtype, hardware) -> (implementation, phase) -> row, of the newest run of a case there still is."""
    runs: dict[tuple, dict] = {}
    for row in record.read("ops"):
        cases, origin = cases_of(row["op"]), row["provenance"]
        if row["case"] not in cases.BENCH or row["dtype"] not in cases.BENCH_DTYPES or "phase" not in row:
            continue
        key = (row["op"], row["case"], row["dtype"], origin["hardware"])
        run = (origin["commit"], origin["command"], row["threads"])
        if key not in runs or runs[key][0] != run:
            runs.pop(key, None)
            runs[key] = (run, {})
        runs[key][1][row["implementation"], row["phase"]] = row
    return {key: rows for key, (_, rows) in runs.items() if any(name == "ours" for name, _ in rows)}


def figures(rows: dict[tuple[str, str], dict]) -> dict[str, Any]:
    """What a run says of ours, with the backward pass where there is one; None where an arm is missing."""
    phase = "both" if ("ours", "both") in rows else "forward"
    ours, official = rows["ours", phase], rows.get(("official", phase), {})
    found = {name: rows.get((arm, phase), {}).get("ours_is_faster") for name, arm in ARMS.items()}
    found |= {"copy": ours["of_copy_bandwidth"], "memory": None, "us": None, "ms": ours["p50_ms"], "row": ours}
    if official.get("peak_mib"):
        found["memory"] = ours["peak_mib"] / official["peak_mib"]
    if batch := getattr(cases_of(ours["op"]).BENCH[ours["case"]], "batch", None):
        found["us"] = 1e3 * ours["p50_ms"] / batch
    return found


def missed(found: dict[str, Any], targets: dict[str, float]) -> list[str]:
    """The targets that a run does not reach, or was not measured against."""
    most = ("memory", "us")
    return [
        name
        for name, target in targets.items()
        if found[name] is None or (found[name] > target if name in most else found[name] < target)
    ]


def why(row: dict, target: str) -> tuple | None:
    """The key of the first explanation that fits."""
    for key in MISSES:
        op, part, dtype, name = key
        if (op, name) == (row["op"], target) and part in row["case"] and dtype in ("", row["dtype"]):
            return key
    return None


def group_table(group: Group, runs: dict, device: str) -> tuple[list[str], list[tuple[dict, str]]]:
    """Lines of a group's table of runs on a device, none if there are no runs; and (figures, target) of its misses."""
    targets = {"cpu": group.cpu, "cuda": group.cuda}[device]
    wanted = {
        "copy": "{} of the copy's bandwidth",
        "memory": "memory at most {} of the official way's",
        "us": "at most {} us an image",
    }
    words = [wanted.get(name, f"{{}} x {name}").format(target) for name, target in targets.items()]
    head = [f"### {group.title}", "", f"Target: {', '.join(words) or 'none of its own'}.", ""]
    head += [
        "| op | case | dtype | ms (p50) | x eager | x compile | x official | x flex | of the copy | of its memory "
        "| us / image | machine, threads | commit |",
        "|" + "---|" * 13,
    ]
    lines = []
    misses = []
    for (op, case, dtype, hardware), rows in sorted(runs.items()):
        found = figures(rows)
        if op not in group.ops or group.part not in case or found["row"]["provenance"]["device"] != device:
            continue
        wrong = missed(found, targets)
        misses += [(found, name) for name in wrong]
        cells = []
        for name in COLUMNS:
            text = "" if found[name] is None else f"{found[name]:.2f}"
            cells.append(f"**{text or 'not measured'}**" if name in wrong else text)
        row = found["row"]
        commit = row["provenance"]["commit"][:7] + ("+" if row["provenance"]["dirty"] else "")
        lines.append(
            f"| {op} | {case} | {dtype} | {found['ms']:.3f} | {' | '.join(cells)} | {hardware}, {row['threads']} "
            f"| {commit} |"
        )
    return [*head, *lines, ""] if lines else [], misses


def explained(misses: list[tuple[dict, str]]) -> list[str]:
    """Every reason, with the misses it is for."""
    reasons: dict[str, list[str]] = {}
    for found, target in misses:
        row, key = found["row"], why(found["row"], target)
        value = "not measured" if found[target] is None else f"{found[target]:.2f}"
        work = f"{row['bytes'] / 1e6:.1f} MB"
        if row["flops"]:
            work += f", {row['flops'] / 1e6:.0f} MFLOP"
        copy = f"copied in {row['p50_ms'] * row['of_copy_bandwidth']:.2f} ms"
        line = f"  * {row['op']}, {row['case']}, {row['dtype']}: {target} {value}; {work} {copy}"
        reasons.setdefault("NOT EXPLAINED" if key is None else MISSES[key], []).append(line)
    return [line for words, lines in reasons.items() for line in (f"* {words}", *lines)]


def low_pass_flops(case) -> float:
    """Of the pruned transform of one image: rows and columns folded, back for the real and the imaginary part."""
    n, kept = case.size[0], math.floor(case.radius + 0.5) + 1
    return 2 * 3 * case.channels * (4 * kept * (n / 2) ** 2 + 4 * kept**2 * (n / 2))


def floors() -> list[str]:
    """What an H200 takes at least for a batch, and what compiled for one the kernels need."""
    compiled: dict[str, dict[str, dict]] = {}
    for row in record.read("compile"):
        if row["arch"] == 90:
            compiled.setdefault(row["op"], {})[row["kernel"]] = row
    lines = [
        "| op, first case | dtype | MB | us, bytes | GFLOP | us, FLOP | kernels | registers | spills | shared, bytes "
        "| narrowest access, bits | matrix instructions |",
        "|" + "---|" * 12,
    ]
    for op in sorted(compiled):
        cases, kernels = cases_of(op), compiled[op].values()
        name, case = next(iter(cases.BENCH.items()))
        cells = ["", "", "", ""]
        dtype = cases.BENCH_DTYPES[-1]
        if batch := getattr(getattr(case, "forward", case), "batch", None):
            moved = cases.bytes_moved(case, ops.DTYPES[dtype]) * BATCH / batch
            flops = cases.flops(case) * BATCH / batch if hasattr(cases, "flops") else 0
            flops = low_pass_flops(case) * BATCH if op == "low_pass" else flops
            cells = [f"{moved / 1e6:.1f}", f"{1e6 * moved / COPY:.1f}", "", ""]
            if flops:
                cells[2:] = f"{flops / 1e9:.1f}", f"{1e6 * flops / MATMUL[dtype]:.1f}"
        narrowest = min(min(row["widest_loads"] or 128, row["widest_stores"] or 128) for row in kernels)
        code = [
            len(kernels),
            f"{min(row['registers'] for row in kernels)} to {max(row['registers'] for row in kernels)}",
            sum(row["spills"] for row in kernels),
            max(row["shared"] for row in kernels),
            narrowest,
            f"in {sum(row['mma'] > 0 for row in kernels)} kernels" if any(row["mma"] for row in kernels) else "none",
        ]
        lines.append(f"| {op}, {name} | {dtype} | {' | '.join(cells)} | {' | '.join(map(str, code))} |")
    return lines


def page() -> str:
    """The whole page."""
    runs = newest()
    tables = {device: [group_table(group, runs, device) for group in GROUPS] for device in ("cpu", "cuda")}
    lines = {device: [line for table, _ in found for line in table] for device, found in tables.items()}
    return "\n".join(
        [
            "# What the kernels were to reach, and what was measured",
            "",
            "Made by `python -m bench.report` from the rows of `python -m bench.ops --record` and `python -m "
            "bench.compile --record` in this folder, which have the whole command, versions and settings. Times are of "
            "forward and backward together where there is a gradient; arms are interleaved. In bold: a miss. "
            "![Roofline](ops_roofline.png)",
            "",
            "## On a CPU",
            "",
            *lines["cpu"],
            "### Why targets were missed",
            "",
            *explained([miss for _, wrong in tables["cpu"] for miss in wrong]),
            "",
            "## On a GPU",
            "",
            *(lines["cuda"] or ["Not measured: none was there.", ""]),
            f"## Floors on an H200 at a batch of {BATCH}",
            "",
            "The floor is the larger of the bytes that cannot be avoided at the copy's 4.3 TB/s "
            "(0.9 of 4.8) and the FLOPs at 790 TFLOP/s in bf16, a sixth of that in float32 of three TF32 products. "
            "Targets: 0.92 of the copy for moves and fills, 0.88 for the patch loss, 145 us for the low-pass. Beside "
            "it, what the code for sm_90 needs; of `narrowest access`, tests/kernels/test_compile.py says why it is "
            "below 64.",
            "",
            *floors(),
            "",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the page is stale")
    args = parser.parse_args(argv)
    fresh = page()
    if args.check:
        stale = not PAGE.exists() or PAGE.read_text() != fresh
        raise SystemExit(stale and f"{PAGE.name} is stale: run python -m bench.report")
    PAGE.write_text(fresh)
    rows = [row for rows in newest().values() for row in rows.values()]
    ops.plot([row for row in rows if row["provenance"]["device"] == "cpu"], PLOT, "cpu")


if __name__ == "__main__":
    main()
