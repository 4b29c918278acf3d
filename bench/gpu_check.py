"""`python -m bench.gpu_check`: on a GPU, everything that only a GPU can prove, in one round of under 9 minutes.

Builds the C++ library, runs every Triton kernel against its reference and under compute-sanitizer, measures ops, whole
step and loader, tries tensors of more than 2^31 elements, and trains. Each part is one process, or several at once,
with a time limit of its own; what it printed goes to a log, and the table of verdicts comes last.
"""

# May import torch.

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from fastmim.command import Parser, refusing

ROOT = Path(__file__).parents[1]
TOTAL = 530  # seconds


class Part(NamedTuple):
    """One process of the round, or several at once."""

    name: str
    commands: list[list[str]]
    seconds: int
    """At most."""


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


UM_MAE = (
    "configs/um_mae/pretrain/swin_tiny_256_200ep.py", "--pair", "configs/um_mae/pretrain/swin_tiny_256_simmim_200ep.py"
)  # fmt: skip


def parts(data: str | None, out: Path) -> list[Part]:
    """The round, what matters most first; `data` = a folder of images for what needs one."""
    # Most of the time is Triton's, which compiles on one core a process. The fuzz tests have a campaign of their own:
    # nearly each of their examples is a kernel to compile.
    tests = ("-m", "pytest", "tests/kernels", "-q", "-m", "triton", "-k", "not fuzz")
    workers = min(len(os.sched_getaffinity(0)), 16)  # each has a CUDA context of its own on the one device
    sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
    watched = [sanitizer or "compute-sanitizer", "--error-exitcode", "1"]
    found = [
        Part("build", [python("setup.py", "build_ext", "--inplace")], 120),
        Part("kernels are correct", [python(*tests, "--share", f"{k + 1}/{workers}") for k in range(workers)], 200),
        Part("sanitizer", [
            [*watched, "--tool", tool, *python("-m", "bench.each_op", "--share", f"{k + 1}/{workers // 2 or 1}")]
            for tool in ("memcheck", "racecheck") for k in range(workers // 2 or 1)
        ], 90),
        Part("ops", [python(
            "-m", "bench.ops", "--record", "--samples", "20", "--first", "--phases", "both", "--dtype", "bf16", "int64",
        )], 180),
        Part("step", [python("-m", "bench.compare", "--batch", "256", "--precision", "autocast", "--record")], 120),
        Part("pyramid step", [python(
            "-m", "bench.compare", *UM_MAE, "--batch", "64", "--steps", "5", "--arms", "ours,eager",
            "--precision", "autocast", "--record",
        )], 90),
        Part("large tensors", [python("-m", "pytest", "tests/kernels/test_large.py", "-q", "-m", "gpu")], 60),
        Part("DALI is correct", [python("-m", "pytest", "tests/data/test_dali_gpu.py", "-q")], 60),
    ]  # fmt: skip
    if data:
        run_dir = str(out / "run")
        tiny = python("fastmim/train.py", "configs/debug/tiny_cpu.py", "--data.root", data, "--run.dir", run_dir)
        found += [
            Part("loader", [python("-m", "bench.loader", "--data", data, "--record")], 90),
            Part("train", [[*tiny, "--run.stop_after", "6"]], 60),
            Part("resume", [[*tiny, "--run.stop_after", "12"]], 60),
        ]
    return found


def run(part: Part, limit: float, out: Path) -> tuple[str, float, str]:
    """(verdict, seconds, last line of output) of one part; its whole output is in OUT/<name>.log, failures last."""
    start = time.perf_counter()
    log = out / f"{part.name.replace(' ', '_')}.log"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *sys.path])}
    if len(part.commands) > 1:
        environment["OMP_NUM_THREADS"] = "1"  # the references' too would take every core
    logs = [log.with_suffix(f".{k}.log") for k in range(len(part.commands))]
    processes, verdict = [], "ok"
    try:
        for command, path in zip(part.commands, logs, strict=True):
            with path.open("w") as file:
                # A session of its own, so that its workers can be ended with it.
                processes.append(subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
                ))  # fmt: skip
        for process in processes:
            process.wait(max(start + limit - time.perf_counter(), 0))
        if code := max((process.returncode for process in processes), key=abs):
            verdict = f"failed ({code})"
    except FileNotFoundError as error:
        verdict = f"no {Path(error.filename).name}"
    except subprocess.TimeoutExpired:
        verdict = f"stopped after {limit:.0f} s"
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    codes = [process.returncode for process in processes] + [1] * (len(logs) - len(processes))
    written = [path for _, path in sorted(zip(map(abs, codes), logs, strict=True)) if path.exists()]
    texts = [path.read_text(errors="replace") for path in written]
    for path in written:
        path.unlink()
    log.write_text("".join(texts))
    lines = log.read_text().strip().splitlines()
    return verdict, time.perf_counter() - start, lines[-1] if lines else ""


def check(round_: list[Part], total: float, out: Path) -> bool:
    """Runs the parts within `total` seconds, prints what each said and then the table; returns whether all are ok."""
    out.mkdir(parents=True, exist_ok=True)
    end = time.perf_counter() + total
    rows = []
    for part in round_:
        left = end - time.perf_counter()
        if left < 5:
            rows.append((part.name, "not run: no time left", 0.0, ""))
            continue
        several = f", {len(part.commands)} at once" if len(part.commands) > 1 else ""
        print(f"== {part.name}{several}: {' '.join(part.commands[0])}", flush=True)
        rows.append((part.name, *run(part, min(part.seconds, left), out)))
        print((out / f"{part.name.replace(' ', '_')}.log").read_text(errors="replace")[-3000:], flush=True)
    print(f"{'part':<22}{'verdict':<24}{'seconds':>8}  last line")
    for name, verdict, seconds, line in rows:
        print(f"{name:<22}{verdict:<24}{seconds:>8.1f}  {line[:120]}")
    return all(verdict == "ok" for _, verdict, _, _ in rows)


def main() -> None:
    parser = Parser("python -m bench.gpu_check", __doc__)
    parser.add_argument("--data", help="folder of images; without it, loader and training are left out")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/gpu_check", help="where logs and the run go")
    parser.add_argument("--commit", help="what this tree is a copy of, where it has no git history")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("expected a GPU, torch sees none; for a CPU there are make test and make bench")
    if args.commit:
        os.environ["FASTMIM_COMMIT"] = args.commit
    shutil.rmtree(args.out / "run", ignore_errors=True)
    if not args.data:
        print("without --data: loader, train and resume are left out")
    raise SystemExit(0 if check(parts(args.data, args.out), TOTAL, args.out) else 1)


if __name__ == "__main__":
    with refusing("python -m bench.gpu_check"):
        main()
