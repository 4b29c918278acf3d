"""Times every op on real shapes, with the reference (eager, compiled), the published code and a copy.

    python -m bench ops --op patch_loss --plot roofline.png

The implementations take turns, in the forward pass, the backward pass and both at once. The copy moves the bytes that
the op cannot do without. Its time and the rate of a matrix product, timed in the same run, are the machine's limit.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from bench.ops import DTYPES
from bench.options import add_device, add_samples, command_parser
from bench.record import Record, record
from bench.timing import Run, events, matmul_rate, measure, nothing
from fastmim.host.command import at_least, nearest

PHASES = ("forward", "backward", "both")


def split_phase(function: Callable, x: torch.Tensor, grad: torch.Tensor | None, phase: str) -> Run:
    """Returns the preparation of a phase and the timed call, which takes the result of the preparation.

    As in training, the forward pass keeps the tensors that the backward pass needs. If an op forms the gradient
    together with the loss, "both" is not the sum of the two other phases.

    Args:
        function: maps `x` to a result.
        x: the input, whose gradient the backward pass computes.
        grad: gradient of the result; None = the result has no gradient.
        phase: one of `PHASES`.
    """

    def forward(_=None):
        x.grad = None
        return function(x)

    def both(_):
        result = forward()
        if grad is not None:
            result.backward(grad)

    if phase == "backward":
        return forward, lambda result: result.backward(grad)
    return nothing, both if phase == "both" else forward


def gradient(result) -> torch.Tensor | None:
    """Returns ones as the gradient of a result, or None if the result has no gradient."""
    return torch.ones_like(result) if isinstance(result, torch.Tensor) and result.requires_grad else None


def enlarge(case, batch: int):
    """Returns the case with at least `batch` images; sizes counted over all images grow in proportion."""
    if hasattr(case, "forward"):
        return dataclasses.replace(case, forward=enlarge(case.forward, batch))
    if hasattr(case, "planes"):  # three an image
        return dataclasses.replace(case, planes=max(case.planes, 3 * batch))
    if getattr(case, "batch", batch) >= batch:
        return case
    rows = {"rows": case.rows * batch // case.batch} if hasattr(case, "patch") and hasattr(case, "rows") else {}
    return dataclasses.replace(case, batch=batch, **rows)


def peak_memory(run: Callable[[None], object], device: str) -> int:
    """Returns the peak bytes of a run's tensors, results and temporaries, above the bytes before it."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(None)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        run(None)
    allocations = [event for event in events(profiled) if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(allocations, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes, initial=0))


def error(op, args) -> float:
    """Returns the 2-norm of the difference from the float64 reference, divided by the reference's norm.

    The result is the largest quotient over all outputs; for integers, the number of values that differ. Single values
    say little: among millions of L1 gradients, a few belong to pixels that are predicted to within rounding, and have
    the other sign.

    Args:
        op: an entry of `fastmim_kernels.OPS`.
        args: arguments of the op.
    """
    args = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
    exact = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
    ours, expected = op.overload(*args), op.reference(*exact)
    if ours is None:  # in place
        ours, expected = args[0], exact[0]
    if isinstance(ours, torch.Tensor):
        ours, expected = (ours,), (expected,)
    pairs = list(zip(ours, expected, strict=True))
    if not ours[0].is_floating_point():
        return float(sum((o != e).sum().item() for o, e in pairs))
    return max(((o - e).norm() / e.norm()).item() for o, e in pairs if e.numel())


def bench_case(
    op, case_name: str, dtype_name: str, device: str, samples: int, phases: list[str], batch: int = 1
) -> list[dict]:
    """Measures one case of an op and returns a row for each implementation and phase."""
    cases = importlib.import_module(f"fastmim_kernels.{op.name}.cases")
    case, dtype = enlarge(cases.BENCH[case_name], batch), DTYPES[dtype_name]
    if case != cases.BENCH[case_name]:
        case_name = f"{case_name}, at least {batch} images"
    x, functions = cases.functions(case, dtype, device)
    torch.compiler.reset()
    functions["compiled"] = torch.compile(functions["reference"])
    grad = gradient(functions["ours"](x))
    if grad is None:
        phases = ["forward"]
    rate = max(matmul_rate(device, kind) for kind in {torch.float32, dtype} if kind.is_floating_point)
    moved, flops = cases.bytes_moved(case, dtype), cases.flops(case) if hasattr(cases, "flops") else 0
    source = torch.zeros(moved // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    runs = {(name, phase): split_phase(f, x, grad, phase) for name, f in functions.items() for phase in phases}
    times = measure(runs | {("copy", "forward"): (nothing, lambda _: target.copy_(source))}, samples, device)
    median = {key: statistics.median(values) for key, values in times.items()}
    copy = median["copy", "forward"]
    rows = []
    for (name, phase), values in times.items():
        p20, _, _, p80 = statistics.quantiles(values, n=5)
        mine = median[name, phase]
        whole = name != "copy" and (grad is None or phase == "both")  # bytes and FLOPs are counted for both passes
        rows.append(
            {
                "op": op.name,
                "case": case_name,
                "dtype": dtype_name,
                "device": device,
                "threads": torch.get_num_threads(),
                "samples": samples,
                "implementation": name,
                "phase": phase,
                "p20_ms": p20,
                "p50_ms": mine,
                "p80_ms": p80,
                "bytes": moved,
                "flops": flops,
                "gb_per_s": moved / mine / 1e6 if whole or name == "copy" else None,
                "of_copy_bandwidth": copy / mine if whole or name == "copy" else None,
                "of_limit": max(copy, flops / rate * 1e3) / mine if whole else None,
                "matmul_tflop_per_s": rate / 1e12,
                "ours_is_faster": mine / median["ours", phase] if name != "copy" else None,
                "peak_mib": peak_memory(runs[name, phase][1], device) / 2**20 if whole else None,
                "error": error(op, cases.inputs(case, dtype, device)) if name == "ours" else None,
            }
        )
    return rows


def plot(rows: list[dict], file: Path, device: str) -> None:
    """Draws a roofline: the FLOP/s of each run above its FLOPs per byte.

    The roof is the median copy and the matrix product. Ops whose FLOPs are not counted stand at 1/16 FLOP per byte.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    rows = [row for row in rows if row["bytes"]]
    bandwidth = statistics.median(row["gb_per_s"] for row in rows if row["implementation"] == "copy")
    rate = max(row["matmul_tflop_per_s"] for row in rows) * 1e3
    intensities = [2.0**n for n in range(-5, 12)]
    axes.plot(intensities, [min(n * bandwidth, rate) for n in intensities], color="black", label="copy, matrix product")
    for name in ("compiled", "official", "reference", "ours"):
        found = [r for r in rows if r["implementation"] == name and r["gb_per_s"]]
        x = [max(r["flops"] / r["bytes"], 1 / 16) for r in found]
        y = [n * r["gb_per_s"] for n, r in zip(x, found, strict=True)]
        axes.scatter(x, y, s=14, alpha=0.7, label=name)
    axes.set(xscale="log", yscale="log", xlabel="FLOP / byte", ylabel="GFLOP/s", title=device)
    axes.legend()
    figure.savefig(file, dpi=120)


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench ops`."""
    parser = command_parser("ops", __doc__)
    parser.add_argument("--op", help="this op only")
    parser.add_argument("--case", help="cases whose name contains this")
    parser.add_argument(
        "--batch", type=at_least(1), default=1, help="least number of images of a case (default: the case's own number)"
    )
    parser.add_argument("--first", action="store_true", help="the first case of each op only")
    parser.add_argument(
        "--dtype", nargs="*", choices=DTYPES, help="only these, of the dtypes in the op's cases (default: all)"
    )
    parser.add_argument("--phases", nargs="*", choices=PHASES, default=PHASES, help="default: all")
    parser.add_argument("--threads", type=at_least(1), help="CPU threads; default: torch's own number")
    add_device(parser)
    add_samples(parser)
    parser.add_argument("--plot", type=Path, help="PNG to draw a roofline into")
    parser.add_argument("--record", action=Record)
    args = parser.parse_args(argv)

    import fastmim_kernels

    names = [args.op] if args.op else list(fastmim_kernels.OPS)
    if names[0] not in fastmim_kernels.OPS:
        ops = list(fastmim_kernels.OPS)
        parser.error(f"--op: expected one of {', '.join(ops)}, got {args.op}{nearest(args.op, ops)}")
    modules = {name: importlib.import_module(f"fastmim_kernels.{name}.cases") for name in names}
    every = [case for cases in modules.values() for case in cases.BENCH]
    if args.case and not any(args.case in case for case in every):
        parser.error(f"--case: expected a part of a case's name, got {args.case}{nearest(args.case, every)}")
    chosen = [
        (name, case, dtype)
        for name, cases in modules.items()
        for case in list(cases.BENCH)[: 1 if args.first else None]
        if not args.case or args.case in case
        for dtype in cases.BENCH_DTYPES
        if not args.dtype or dtype in args.dtype
    ]
    if not chosen:
        parser.error("--first, --case and --dtype together leave nothing to measure")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "cpu":
        fastmim_kernels.keep_freed_memory()  # as training does
    fastmim_kernels.require("cpp" if args.device == "cpu" else "triton")
    done = []
    for name, case, dtype in chosen:
        rows = bench_case(fastmim_kernels.OPS[name], case, dtype, args.device, args.samples, args.phases, args.batch)
        case = rows[0]["case"]
        title = f"{name}: {case}, {dtype}, {args.device}"
        print(f"{title}, {rows[0]['bytes'] / 1e6:.1f} MB, error {rows[0]['error']:.1e}")
        columns = ("p20 ms", "p50 ms", "p80 ms", "GB/s", "of copy", "ours x", "MiB")
        print(f"  {'':<12}{'':<9}" + "".join(f"{column:>9}" for column in columns))
        for row in rows:
            keys = ("p20_ms", "p50_ms", "p80_ms", "gb_per_s", "of_copy_bandwidth", "ours_is_faster", "peak_mib")
            cells = ("" if row[key] is None else f"{row[key]:.3f}" for key in keys)
            print(f"  {row['implementation']:<12}{row['phase']:<9}" + "".join(f"{c:>9}" for c in cells), flush=True)
            if args.record:
                record(row, "ops")
        done += rows
    if args.plot:
        plot(done, args.plot, args.device)
