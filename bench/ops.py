"""Times every op on real shapes: ours, the reference eager and under torch.compile, the official way, and a plain copy.

`python -m bench.ops` runs all of them forward and backward, interleaved so that a busy machine slows all alike. The
copy moves as many bytes as the op cannot do without: its time is the machine's limit. May import fastmim_kernels.
"""

import argparse
import importlib
import statistics
import time
from functools import partial

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int64": torch.int64}


def forward_backward(function, x: torch.Tensor, grad: torch.Tensor | None) -> None:
    x.grad = None
    result = function(x)
    if grad is not None:
        result.backward(grad)


def gradient(result) -> torch.Tensor | None:
    """What backward is given: ones, or None where nothing wants a gradient."""
    return torch.ones_like(result) if isinstance(result, torch.Tensor) and result.requires_grad else None


def measure(runs: dict, samples: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of each run, interleaved, after a warm-up; on a GPU each starts with a cold L2 cache."""
    times = {name: [] for name in runs}
    flush = torch.empty(64 << 20, device=device) if device == "cuda" else None
    for sample in range(-3, samples):
        for name, run in runs.items():
            if flush is None:
                start = time.perf_counter()
                run()
                elapsed = (time.perf_counter() - start) * 1e3
            else:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                flush.zero_()
                begin.record()
                run()
                end.record()
                end.synchronize()
                elapsed = begin.elapsed_time(end)
            if sample >= 0:
                times[name].append(elapsed)
    return times


def error(op, args) -> float:
    """Difference from the float64 reference, both as 2-norms, the largest over all outputs; integers: how many differ.

    A norm, since among millions of L1 gradients a few pixels equal to within rounding take the other sign.
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


def bench(op, case_name: str, dtype_name: str, device: str, samples: int) -> list[dict]:
    """One row per implementation."""
    cases = importlib.import_module(f"fastmim_kernels.{op.name}.cases")
    case, dtype = cases.BENCH[case_name], DTYPES[dtype_name]
    x, functions = cases.functions(case, dtype, device)
    torch.compiler.reset()
    functions["compiled"] = torch.compile(functions["reference"])
    grad = gradient(functions["ours"](x))
    moved = cases.bytes_moved(case, dtype)
    source = torch.zeros(moved // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = measure(
        {name: partial(forward_backward, function, x, grad) for name, function in functions.items()}
        | {"copy": lambda: target.copy_(source)},
        samples,
        device,
    )
    median = {name: statistics.median(values) for name, values in times.items()}
    rows = []
    for name, values in times.items():
        p20, _, _, p80 = statistics.quantiles(values, n=5)
        rows.append(
            {
                "op": op.name,
                "case": case_name,
                "dtype": dtype_name,
                "device": device,
                "threads": torch.get_num_threads(),
                "samples": samples,
                "implementation": name,
                "p20_ms": p20,
                "p50_ms": median[name],
                "p80_ms": p80,
                "bytes": moved,
                "gb_per_s": moved / median[name] / 1e6,
                "of_copy_bandwidth": median["copy"] / median[name],
                "ours_is_faster": median[name] / median["ours"],
                "error": error(op, cases.inputs(case, dtype, device)) if name == "ours" else None,
            }
        )
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--op", help="this op only")
    parser.add_argument("--case", help="cases whose name contains this")
    parser.add_argument("--dtype", nargs="*", choices=DTYPES, help="of those that the op's cases name (default: all)")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own number")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--record", action="store_true", help="append the rows to bench/results")
    args = parser.parse_args(argv)

    import fastmim_kernels

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "cpu":
        fastmim_kernels.keep_freed_memory()  # as training does
    fastmim_kernels.require("cpp" if args.device == "cpu" else "triton")
    columns = f"{'p20 ms':>9}{'p50 ms':>9}{'p80 ms':>9}{'GB/s':>7}{'of copy':>8}{'ours x':>7}"
    for name in [args.op] if args.op else fastmim_kernels.OPS:
        cases = importlib.import_module(f"fastmim_kernels.{name}.cases")
        for case in cases.BENCH:
            if args.case and args.case not in case:
                continue
            for dtype in [name for name in cases.BENCH_DTYPES if not args.dtype or name in args.dtype]:
                rows = bench(fastmim_kernels.OPS[name], case, dtype, args.device, args.samples)
                title = f"{name}: {case}, {dtype}, {args.device}"
                print(f"{title}, {rows[0]['bytes'] / 1e6:.1f} MB, error {rows[0]['error']:.1e}")
                print(f"  {'':<12}{columns}")
                for row in rows:
                    print(
                        f"  {row['implementation']:<12}{row['p20_ms']:>9.3f}{row['p50_ms']:>9.3f}{row['p80_ms']:>9.3f}"
                        f"{row['gb_per_s']:>7.1f}{row['of_copy_bandwidth']:>8.2f}{row['ours_is_faster']:>7.2f}",
                        flush=True,
                    )
                    if args.record:
                        from .record import record

                        record(row, "ops")


if __name__ == "__main__":
    main()
