"""Writes bench/results/kernels.md, with the recorded speed of every op and its targets.

The page compares the newest row of every op, case and machine with its target, and gives the reason of each missed
target. It also holds lower bounds of the time on an H200, figures of the compiled code, and a roofline plot.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from bench import record
from bench.ops import DTYPES
from bench.ops.misses import MISSES, UNMEASURED, Reason
from bench.ops.speed import enlarge, plot
from bench.options import command_parser
from fastmim_kernels import OPS

PAGE, PLOT = record.RESULTS / "kernels.md", record.RESULTS / "ops_roofline.png"
COPY, MATMUL, VECTOR = 4.3e12, {"bf16": 790e12, "fp32": 790e12 / 2 / 3}, 67e12
"""Rates of an H200: a copy in bytes a second, matrix products and other float32 work in FLOP/s.

The copy reads and writes at 0.9 of 4.8 TB/s. A float32 product is three TF32 products. The last rate is from the data
sheet.
"""
BATCH = 256
"""Images in a batch whose lower bounds the page gives."""
ALSO = {"composite_residual": ("a2mim_resnet101",)}
"""Cases with a lower bound on the page, besides each op's first case.

In these cases each image has its own spectrum.
"""
NOISY = 1.5
"""Quotient of p80 and p20 above which a row is marked as noisy."""


class Group(NamedTuple):
    """A table of the page.

    Attributes:
        title: heading of the table.
        cpu: targets on a CPU.
        cuda: targets on a GPU.
        members: (op, part of the names of its cases) of each op in the table.
    """

    title: str
    cpu: dict[str, float]
    cuda: dict[str, float]
    members: tuple[tuple[str, str], ...]

    def has(self, op: str, case: str) -> bool:
        """True if a case stands in this table."""
        return any(op == name and part in case for name, part in self.members)


def groups() -> list[Group]:
    """Returns the tables of the page, by title, from the `TARGETS` of all ops.

    Raises:
        ValueError: two ops state different targets under the same title.
    """
    found: dict[str, Group] = {}
    for op in OPS:
        for targets in getattr(cases_of(op), "TARGETS", ()):
            known = found.get(targets.table, Group(targets.table, targets.cpu, targets.cuda, ()))
            if (known.cpu, known.cuda) != (targets.cpu, targets.cuda):
                raise ValueError(f"TARGETS of {op}: other targets than another op's in table {targets.table!r}")
            found[targets.table] = known._replace(members=(*known.members, (op, targets.cases)))
    return [found[title] for title in sorted(found)]


OLD_NAMES = {"focal_spectrum_": "focal_frequency", "scale_": "scale_gradient"}
"""Present names of ops, by their names in old rows."""


def read(theme: str) -> list[dict]:
    """Returns the recorded rows of a theme, with the present names of ops."""
    return [row | {"op": OLD_NAMES.get(row["op"], row["op"])} for row in record.read(theme)]


ARMS = {"eager": "reference", "compile": "compiled", "official": "official", "flex": "flex"}
COLUMNS = {
    **{name: f"x {name}" for name in ARMS},
    "copy": "of the copy",
    "memory": "of its memory",
    "us": "us / image",
}
LEGEND = f"""\
* **ms**: median time of a call, and its 20th to 80th percentile. Forward and backward are counted together where \
the op has a gradient. A `~` marks a p80 of more than {NOISY} times p20: the machine was busy. The ratios then say \
more than the times, since the compared calls took turns.
* **x eager, x compile, x official, x flex**: time of another implementation divided by that of fastmim: plain \
torch, plain torch under `torch.compile`, the published code of the method, and FlexAttention (on a GPU only).
* **of the copy**: time of a copy in the same run, divided by that of fastmim. The copy moves the bytes that the op \
cannot do without. 1 is the limit of an op that is bound by memory.
* **of its memory**: peak memory that fastmim allocates, divided by that of the published code.
* **us / image**: median time divided by the images of the batch.
* **error**: largest difference of an output from the result in float64, both as 2-norms. Of integers, the number that \
differ. Rounding to bfloat16 gives up to 0.002. In an L1 loss, the gradients of a few pixels that are met to within \
rounding also take the other sign.
* **run**: number of the command in the list under the table.

A column without numbers is left out."""


def cases_of(op: str) -> Any:
    """Returns the module of an op's cases."""
    return importlib.import_module(f"fastmim_kernels.{op}.cases")


def case_of(op: str, name: str) -> Any | None:
    """Returns the case that a row names, enlarged as by `ops --batch`, or None if the op has no such case."""
    name, _, images = name.partition(", at least ")
    case = cases_of(op).BENCH.get(name)
    return enlarge(case, int(images.removesuffix(" images"))) if case is not None and images else case


def newest() -> dict[tuple, dict[tuple[str, str], dict]]:
    """Returns the rows of the newest run of each present case.

    Returns:
        {(op, case, dtype, hardware): {(implementation, phase): row}}.
    """
    runs: dict[tuple, tuple[tuple, dict[tuple[str, str], dict]]] = {}
    for row in read("ops"):
        cases, case, origin = cases_of(row["op"]), case_of(row["op"], row["case"]), row["provenance"]
        if case is None or row["dtype"] not in cases.BENCH_DTYPES or "phase" not in row:
            continue
        key = (row["op"], row["case"], row["dtype"], origin["hardware"])
        if hasattr(cases, "flops"):  # old rows lack the count
            row = row | {"flops": cases.flops(case)}
        run = (origin["commit"], origin["command"], row["threads"])
        if key not in runs or runs[key][0] != run:
            runs.pop(key, None)
            runs[key] = (run, {})
        runs[key][1][row["implementation"], row["phase"]] = row
    return {key: rows for key, (_, rows) in runs.items() if any(name == "ours" for name, _ in rows)}


def figures(rows: dict[tuple[str, str], dict]) -> dict[str, Any]:
    """Returns the figures of an op and its backward pass; a figure that was not measured is None."""
    phase = "both" if ("ours", "both") in rows else "forward"
    ours, official = rows["ours", phase], rows.get(("official", phase), {})
    found = {name: rows.get((arm, phase), {}).get("ours_is_faster") for name, arm in ARMS.items()}
    found["alone"] = {
        target: [rows.get((ARMS[target], alone), {}).get("ours_is_faster") for alone in ("forward", "backward")]
        for target in ARMS
        if phase == "both"
    }
    found |= {"copy": ours["of_copy_bandwidth"], "memory": None, "us": None, "ms": ours["p50_ms"], "row": ours}
    if official.get("peak_mib"):
        found["memory"] = ours["peak_mib"] / official["peak_mib"]
    if batch := getattr(case_of(ours["op"], ours["case"]), "batch", None):
        found["us"] = 1e3 * ours["p50_ms"] / batch
    return found


def missed(found: dict[str, Any], targets: dict[str, float]) -> list[str]:
    """Returns the targets that a run does not reach or did not measure."""
    most = ("memory", "us")
    return [
        name
        for name, target in targets.items()
        if found[name] is None or (found[name] > target if name in most else found[name] < target)
    ]


def why(row: dict, target: str) -> Reason | None:
    """Returns the first reason that fits a missed target, or None."""
    for (op, part, dtype, name), reason in MISSES.items():
        if (op, name) == (row["op"], target) and part in row["case"] and dtype in ("", row["dtype"]):
            return reason
    return None


def group_table(group: Group, runs: dict, device: str) -> tuple[list[str], list[tuple[dict, str]]]:
    """Returns the lines of a group's table, and (figures, target) of each missed target.

    Args:
        group: the table.
        runs: result of `newest`.
        device: "cpu" or "cuda".
    """
    targets = {"cpu": group.cpu, "cuda": group.cuda}[device]
    wanted = {
        "copy": "{} of the copy's bandwidth",
        "memory": "memory at most {} of the published code's",
        "us": "at most {} us an image",
    }
    words = [wanted.get(name, f"{{}} x {name}").format(target) for name, target in targets.items()]
    mine = []
    for (op, case, *_), rows in sorted(runs.items()):
        found = figures(rows)
        if group.has(op, case) and found["row"]["provenance"]["device"] == device:
            mine.append((found, missed(found, targets)))
    shown = [name for name in COLUMNS if name in targets or any(found[name] is not None for found, _ in mine)]
    commands: dict[str, int] = {}
    lines = []
    for found, wrong in mine:
        row = found["row"]
        cells = []
        for name in shown:
            text = "" if found[name] is None else f"{found[name]:.2f}"
            cells.append(f"**{text or 'not measured'}**" if name in wrong else text)
        noisy = "~ " if row["p80_ms"] > NOISY * row["p20_ms"] else ""
        ms = f"{noisy}{row['p50_ms']:.3f} ({row['p20_ms']:.3f} to {row['p80_ms']:.3f})"
        number = commands.setdefault(command(row), len(commands) + 1)
        lines.append([row["op"], row["case"], row["dtype"], ms, *cells, f"{row['error']:.0e}", str(number)])
    if not lines:
        return [], []
    head = ["op", "case", "dtype", "ms", *(COLUMNS[name] for name in shown), "error", "run"]
    missing = sorted({(op, dtype) for op, dtype in UNMEASURED if op in dict(group.members)} if device == "cpu" else ())
    page = [
        f"### {group.title}",
        "",
        f"Target: {', '.join(words) or 'none'}.",
        "",
        *(f"Not measured: {op} in {dtype}; {UNMEASURED[op, dtype]}.\n" for op, dtype in missing),
        *record.markdown(head, lines).splitlines(),
        "",
        *(f"{number}. {words}" for words, number in commands.items()),
        "",
    ]
    return page, [(found, name) for found, wrong in mine for name in wrong]


def command(row: dict) -> str:
    """Returns the command of a row, its hardware and its commit."""
    origin = row["provenance"]
    changed = ", with changes" if origin["dirty"] else ""
    threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
    where = origin["hardware"] if origin["device"] == "cuda" else f"{origin['hardware']}, {threads}"
    return f"`{origin['command']}` on {where}; commit {origin['commit'][:7]}{changed}"


def explained(misses: list[tuple[dict, str]]) -> list[str]:
    """Returns the lines of every reason, with the attempts to reach the target and the missed targets."""
    reasons: dict[Reason | None, list[list[str]]] = {}
    for found, target in misses:
        row = found["row"]
        work, seconds = row["flops"], row["p50_ms"] / 1e3
        alone = [f"{x:.2f}" for x in found["alone"].get(target, ()) if x is not None]
        cells = [
            f"{row['op']}, {row['case']}, {row['dtype']}",
            f"{target} {'not measured' if found[target] is None else format(found[target], '.2f')}",
            " / ".join(alone),
            f"{row['p50_ms']:.3f}",
            f"{row['p50_ms'] * row['of_copy_bandwidth']:.3f}",
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['bytes'] / seconds / 1e9:.1f}",
            f"{work / 1e6:.0f}" if work else "",
            f"{work / seconds / row['threads'] / 1e9:.1f}" if work else "",
        ]
        reasons.setdefault(why(row, target), []).append(cells)
    head = ["case", "reached", "forward / backward alone", "ms", "ms of a copy", "MB", "GB/s"]
    head += ["MFLOP", "GFLOP/s a thread"]
    lines = []
    for number, (reason, rows) in enumerate(reasons.items(), 1):
        used = [i for i in range(len(head)) if any(cells[i] for cells in rows)]
        ops_of = ", ".join(dict.fromkeys(cells[0].split(", ")[0] for cells in rows))
        words = [reason.why, "", f"**Tried:** {reason.tried}"] if reason else ["NOT EXPLAINED"]
        lines += [f"#### {number}. {ops_of}", "", *words, ""]
        lines.append(record.markdown([head[i] for i in used], [[cells[i] for i in used] for cells in rows]))
    return lines


def compiled_kernels(arch: int) -> dict[str, dict[str, dict]]:
    """Returns the newest compiled row of each kernel, as {op: {kernel: row}}."""
    found: dict[str, dict[str, dict]] = {}
    for row in read("compile"):
        if row["arch"] == arch:
            found.setdefault(row["op"], {})[row["kernel"]] = row
    return found


def floors() -> str:
    """Returns the table of lower bounds on the time of a batch on an H200."""
    rows = []
    for op, kernels in sorted(compiled_kernels(90).items()):
        cases = cases_of(op)
        dtype = cases.BENCH_DTYPES[-1]
        rate = MATMUL[dtype] if any(row["mma"] for row in kernels.values()) else VECTOR
        for name in (next(iter(cases.BENCH)), *ALSO.get(op, ())):
            case = cases.BENCH[name]
            source = getattr(case, "forward", case)
            batch = source.planes / 3 if hasattr(source, "planes") else getattr(source, "batch", None)
            times = BATCH / batch if batch else 1
            moved = cases.bytes_moved(case, DTYPES[dtype]) * times
            more = {"mirrors": 2} if op == "low_pass" else {}
            flops = cases.flops(case, **more) * times if hasattr(cases, "flops") else 0
            cells = [op, name, dtype, f"{moved / 1e6:.1f}", f"{1e6 * moved / COPY:.1f}"]
            cells += [f"{flops / 1e9:.2f}", f"{1e6 * flops / rate:.1f}"] if flops else ["", ""]
            rows.append([*cells, f"{1e6 * max(moved / COPY, flops / rate):.1f}"])
    return record.markdown(["op", "case", "dtype", "MB", "us, bytes", "GFLOP", "us, FLOP", "floor, us"], rows)


def code() -> str:
    """Returns the table of registers and instructions of kernels compiled for an H200."""
    rows = []
    for op, found in sorted(compiled_kernels(90).items()):
        kernels = found.values()
        registers, matrix = [row["registers"] for row in kernels], sum(row["mma"] > 0 for row in kernels)
        cells = [
            op,
            len(kernels),
            f"{min(registers)} to {max(registers)}",
            sum(row["spills"] for row in kernels),
            max(row["shared"] for row in kernels),
            min(min(row["widest_loads"] or 128, row["widest_stores"] or 128) for row in kernels),
            f"in {matrix}" if matrix else "none",
        ]
        rows.append([str(cell) for cell in cells])
    head = ["op", "kernels", "registers", "spills", "most shared memory, bytes", "narrowest access, bits"]
    return record.markdown([*head, "matrix instructions"], rows)


def spills() -> str:
    """Returns a sentence on which compiled kernels spill registers."""
    sentences = []
    for arch in (80, 90, 100):
        found = [row for kernels in compiled_kernels(arch).values() for row in kernels.values() if row["spills"]]
        names = ", ".join(f"{row['op']} {row['kernel']} ({row['spills']})" for row in found)
        total = f"{sum(row['spills'] for row in found)} in all: {names}" if found else "none"
        sentences.append(f"for sm_{arch} {total}")
    return f"Spills, which tests/kernels/test_compile.py allows by name only: {'; '.join(sentences)}."


def page() -> str:
    """Returns the whole page."""
    runs = newest()
    tables = {device: [group_table(group, runs, device) for group in groups()] for device in ("cpu", "cuda")}
    lines = {device: [line for table, _ in found for line in table] for device, found in tables.items()}
    return "\n".join(
        [
            "# Ops: targets and measurements",
            "",
            "Made by `python -m bench report` from the rows of `python -m bench ops --record` and `python -m "
            "bench compile --record` in this folder, which have the whole command, versions and settings.",
            "",
            "A missed target is bold. The columns are:",
            "",
            LEGEND,
            "",
            "## On a CPU",
            "",
            *lines["cpu"],
            "### Roofline",
            "",
            "The plot holds every run on a CPU. The x axis is the FLOPs of fastmim per byte that the op cannot do "
            "without. The y axis is those FLOPs divided by the time of each implementation, which may compute more. "
            "The black line is the machine's limit: the median copy, then the matrix product. Only scale_gradient, "
            "which works in place, lies above it. Ops that move values and whose few operations are not counted stand "
            "at 1/16 FLOP per byte, where the height is their bandwidth divided by 16.",
            "",
            "![FLOPs per byte and GFLOP/s of every implementation, below the copy and the matrix product]"
            "(ops_roofline.png)",
            "",
            "### Reasons of missed targets",
            "",
            "`reached` names the target as the columns above do. `forward / backward alone` is the same ratio of one "
            "phase; patch_loss forms its gradient in the forward phase. `ms of a copy` is the time of the bytes in "
            "`MB`. FLOPs are those of the whole case if `cases.flops` counts them, else the text gives them per value.",
            "",
            *explained([miss for _, wrong in tables["cpu"] for miss in wrong]),
            "## On a GPU",
            "",
            *(lines["cuda"] or ["Not measured yet.", ""]),
            f"## Floors on an H200 at a batch of {BATCH}",
            "",
            "The floor is the larger of two times. The first is that of the bytes that the op cannot do without, at "
            "the 4.3 TB/s of a copy (0.9 of 4.8). The second is that of the FLOPs: at 790 TFLOP/s in bf16 and a sixth "
            "of that in float32 (three TF32 products) if the op's kernels use matrix units, else at 67 TFLOP/s.",
            "",
            "Targets: 0.92 of the copy for moves and fills, 0.88 for the patch loss, 145 us for the low-pass.",
            "",
            "FLOPs follow from the kernels' shapes. The low-pass is pruned and folded once, without the work that its "
            "programs repeat. composite_residual is A2MIM's whole loss. Its transforms are torch.fft's, of one "
            "residual image a batch, or of every image for ResNet-101; as dense products the latter would be 105 "
            "GFLOP. If the column is empty, the op takes a few operations a value, less than the time of its bytes. "
            "scale_gradient moves nothing if the factor is 1. It and philox have no images: their case is as it is.",
            "",
            floors(),
            "### Compiled code for sm_90",
            "",
            "tests/kernels/test_compile.py gives the reason of each `narrowest access` below 64.",
            "",
            spills(),
            "",
            code(),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench report`."""
    parser = command_parser("report", __doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the page is stale")
    args = parser.parse_args(argv)
    fresh = page()
    if args.check:
        stale = not PAGE.exists() or PAGE.read_text() != fresh
        raise SystemExit(stale and f"{PAGE.name} is stale: run python -m bench report")
    PAGE.write_text(fresh)
    rows = [row for rows in newest().values() for row in rows.values()]
    plot([row for row in rows if row["provenance"]["device"] == "cpu"], PLOT, "cpu")
