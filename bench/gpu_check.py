"""`python -m bench.gpu_check`: on a GPU, everything that only a GPU can prove, in one round of under 9 minutes.

Builds the C++ library, runs every Triton kernel against its reference, measures ops, whole step and loader, and trains.
Each part is a process with a time limit of its own; what it printed goes to a log, and the table of verdicts comes
last. May import torch.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).parents[1]
TOTAL = 530  # seconds


class Part(NamedTuple):
    """One process of the round."""

    name: str
    arguments: list[str]
    """Of the Python interpreter."""
    seconds: int
    """At most."""


UM_MAE = (
    "configs/um_mae/pretrain/swin_tiny_256_200ep.py", "--pair", "configs/um_mae/pretrain/swin_tiny_256_simmim_200ep.py"
)  # fmt: skip


def parts(data: str | None, out: Path) -> list[Part]:
    """The round, what matters most first; `data` = a folder of images for what needs one."""
    found = [
        Part("build", ["setup.py", "build_ext", "--inplace"], 120),
        Part("kernels are correct", ["-m", "pytest", "tests/kernels", "-q", "-m", "triton"], 150),
        Part("DALI is correct", ["-m", "pytest", "tests/data/test_dali_gpu.py", "-q"], 60),
        Part("ops", [
            "-m", "bench.ops", "--record", "--samples", "20", "--first", "--phases", "both", "--dtype", "bf16", "int64",
        ], 180),
        Part("step", ["-m", "bench.compare", "--batch", "256", "--precision", "autocast", "--record"], 120),
        Part("pyramid step", [
            "-m", "bench.compare", *UM_MAE, "--batch", "64", "--steps", "5", "--arms", "ours,eager",
            "--precision", "autocast", "--record",
        ], 90),
    ]  # fmt: skip
    if data:
        tiny = ["fastmim/train.py", "configs/debug/tiny_cpu.py", "--data.root", data, "--run.dir", str(out / "run")]
        found += [
            Part("loader", ["-m", "bench.loader", "--data", data, "--record"], 90),
            Part("train", [*tiny, "--run.stop_after", "6"], 60),
            Part("resume", [*tiny, "--run.stop_after", "12"], 60),
        ]
    return found


def run(part: Part, limit: float, out: Path) -> tuple[str, float, str]:
    """(verdict, seconds, last line of output) of one part; its whole output is in OUT/<name>.log."""
    start = time.perf_counter()
    log = out / f"{part.name.replace(' ', '_')}.log"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *sys.path])}
    with log.open("w") as file:
        try:
            # A session of its own, so that its workers can be ended with it.
            process = subprocess.Popen(
                [sys.executable, *part.arguments],
                cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            code = process.wait(limit)
            verdict = "ok" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            verdict = f"stopped after {limit:.0f} s"
    lines = log.read_text(errors="replace").strip().splitlines()
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
        print(f"== {part.name}: python {' '.join(part.arguments)}", flush=True)
        rows.append((part.name, *run(part, min(part.seconds, left), out)))
        print((out / f"{part.name.replace(' ', '_')}.log").read_text(errors="replace")[-3000:], flush=True)
    print(f"{'part':<22}{'verdict':<24}{'seconds':>8}  last line")
    for name, verdict, seconds, line in rows:
        print(f"{name:<22}{verdict:<24}{seconds:>8.1f}  {line[:120]}")
    return all(verdict == "ok" for _, verdict, _, _ in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__)
    parser.add_argument("--data", help="folder of images; without it, loader and training are left out")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/gpu_check", help="where logs and the run go")
    parser.add_argument("--commit", help="what this tree is a copy of, where it has no git history")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "gpu_check: expected a GPU, torch sees none; for a CPU there are make test and make bench\n")
    if args.commit:
        os.environ["FASTMIM_COMMIT"] = args.commit
    shutil.rmtree(args.out / "run", ignore_errors=True)
    if not args.data:
        print("without --data: loader, train and resume are left out")
    raise SystemExit(0 if check(parts(args.data, args.out), TOTAL, args.out) else 1)


if __name__ == "__main__":
    main()
