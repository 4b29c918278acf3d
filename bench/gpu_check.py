"""Runs all checks that need a GPU, in one round of less than ten minutes.

The most urgent parts come first: the C++ library, each kernel once against its reference, and whole steps of four
methods. Then come precisions, official losses, runs that stop and continue at every ZeRO stage, compiled baselines,
attention kernels, ops, DALI, the loader and projected hours. The rest of the time goes to all kernel tests, tensors of
more than 2^31 elements, and compute-sanitizer.

Each part is one process, or several at once. A part may use its own seconds, and the seconds that earlier parts did not
need. Logs and rows go to one archive, written again after each part: gpu_check.tar.gz in $OUT, or else in --out.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from bench import record
from bench.options import command_parser
from bench.record import ROOT
from fastmim.host.command import at_least

TOTAL = 560
"""Seconds of a round. A command may have 600 seconds, some of which go to copying packages."""
SHOWN = 400
"""Characters of a failed part's log that are printed; the archive holds the whole log."""
CONFIGS = {
    "UM-MAE Swin-T": "configs/um_mae/pretrain/swin_tiny_256_200ep.py",
    "MAE ViT-B": "configs/mae/pretrain/vit_base_patch16_224_800ep.py",
    "A2MIM ResNet-50": "configs/a2mim/pretrain/resnet50_300ep.py",
    "SimMIM Swin-B": "configs/simmim/pretrain/swin_base_window6_192_800ep.py",
}
TINY = "configs/debug/tiny_cpu.py"
SHORT = "--train.global_batch 16 --train.epochs 6 --run.trace True --train.deterministic True"
"""Settings of a short run that writes a trace."""
RESUMED = {
    "stage 0": (),
    "stage 1": ("--train.zero_stage", "1"),
    "stage 2": ("--train.zero_stage", "2"),
    "stage 3": ("--train.zero_stage", "3"),
    "bf16-master": ("--train.precision", "bf16-master"),
    "fp16": ("--train.precision", "autocast-fp16"),
}
"""Settings of runs that stop and continue, and must equal uninterrupted runs bit for bit."""


class Part(NamedTuple):
    """One process of the round, or several at once, and the seconds reserved for them."""

    name: str
    commands: list[list[str]]
    seconds: int


def python(*arguments: str) -> list[str]:
    """Returns a command that runs this Python."""
    return [sys.executable, *arguments]


def bench(*arguments: str) -> list[str]:
    """Returns a command that runs a benchmark."""
    return python("-m", "bench", *arguments)


def resumed(images: Path, run: Path, *settings: str) -> list[str]:
    """Returns a command that trains once without and once with a stop, and compares both traces."""
    train = python(
        "fastmim/train.py", TINY, "--data.root", str(images), *SHORT.split(), *settings, "--run.evaluate_every", "0"
    )
    undisturbed, stopped = run / "undisturbed", run / "stopped"
    once, first, second = (
        shlex.join([*train, "--run.dir", str(folder), "--run.stop_after", updates])
        for folder, updates in ((undisturbed, "12"), (stopped, "6"), (stopped, "12"))
    )
    traces = [str(folder / "trace.jsonl") for folder in (undisturbed, stopped)]
    compare = shlex.join(python("-m", "fastmim.bittrace", *traces))
    return ["sh", "-c", f"{once} & other=$!; {first} && {second} && wait $other && {compare}"]


def launched(images: Path, run: Path) -> list[str]:
    """Returns a command that trains under DeepSpeed's launcher."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    launcher = python("-m", "deepspeed.launcher.runner", "--num_accelerators", "1", "--master_port", port)
    where = ["--data.root", str(images), "--run.dir", str(run)]
    return [*launcher, "fastmim/train.py", TINY, *where, "--train.global_batch", "16", "--run.stop_after", "4"]


def parts(images: Path, runs: Path, photographs: bool, records: bool = True) -> list[Part]:
    """Returns the parts of the round, in the order of importance.

    Args:
        images: folder of images to train on.
        runs: folder for runs.
        photographs: True if `images` are photographs, on which loading can be timed.
        records: True if rows can be recorded.
    """
    record_option = ["--record"] * records
    # Triton's compiler takes most of the time, with one core per process. The campaign runs the fuzz tests instead,
    # because nearly every example of a fuzz test has to compile a kernel.
    tests = ("-m", "pytest", "-q", "-m", "triton", "-k")
    workers = min(len(os.sched_getaffinity(0)), 16)  # each process holds a CUDA context on the one device
    shares = [f"{k + 1}/{workers}" for k in range(workers)]
    halves = [f"{k + 1}/{workers // 2 or 1}" for k in range(workers // 2 or 1)]
    sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
    sanitizer_command = [sanitizer or "compute-sanitizer", "--error-exitcode", "1"]
    step_options = ("--batch", "256", "--precision", "autocast", *record_option)
    compiled = ("--arms", "ours,compile,compile-max-autotune,compile-reduce-overhead")
    sweep, first_cases = "tests/kernels/test_sweep.py", "primes and (float32 or int64)"
    mae = CONFIGS["MAE ViT-B"]
    found = [
        Part("build", [python("setup.py", "build_ext", "--inplace")], 55),
        Part("each kernel once", [python(*tests, first_cases, sweep, "--share", share) for share in shares], 45),
        *(
            Part(f"step of {name}", [bench("compare", config, *step_options, "--arms", "ours,eager")], 25)
            for name, config in CONFIGS.items()
        ),
        Part("own step", [bench("step", *CONFIGS.values(), "--batch", "256", *record_option)], 40),
        Part("precisions", [bench(
            "step", mae, "--batch", "256", "--precision", "autocast", "bf16-master", "fp32",
            "autocast-fp16", *record_option,
        )], 30),
        Part("official losses", [python("-m", "pytest", "tests/methods/test_golden_gpu.py", "-q", "-m", "gpu")], 15),
        Part("stop and go on", [
            launched(images, runs / "launched"),
            *(resumed(images, runs / name.replace(" ", "_"), *settings) for name, settings in RESUMED.items()),
        ], 60),
        *(
            Part(f"compiled {name}", [bench("compare", CONFIGS[name], *step_options, *compiled)], 40)
            for name in ("UM-MAE Swin-T", "MAE ViT-B")
        ),
        Part("attention", [bench("sdpa", *record_option)], 15),
        Part("ops", [bench(
            "ops", "--samples", "20", "--first", "--batch", "256", "--phases", "both",
            "--dtype", "bf16", "int64", *record_option,
        )], 30),
    ]  # fmt: skip
    if find_spec("nvidia") and find_spec("nvidia.dali"):
        found.append(Part("DALI", [python("-m", "pytest", "tests/data/test_dali_gpu.py", "-q")], 15))
    if photographs:
        loader = bench("loader", "--data", str(images), "--rounds", "2", *record_option)
        found.append(Part("loader", [loader], 20))
        # Reading and decoding of the images count, too, so there are few steps.
        schedules = bench(
            "hours", *CONFIGS.values(), "--data", str(images), "--batch", "256", "--steps", "10", *record_option
        )
        found.append(Part("hours", [schedules], 25))
    large = python("-m", "pytest", "tests/kernels/test_large.py", "-q", "-m", "gpu")
    return [
        *found,
        Part("all kernel tests", [
            python(*tests, "not fuzz", "tests/kernels", "--share", share) for share in shares
        ], 10),
        Part("large tensors", [large], 10),
        Part("sanitizer", [
            [*sanitizer_command, "--tool", tool, *bench("sanitize", "--share", share)]
            for tool in ("memcheck", "racecheck") for share in halves
        ], 10),
    ]  # fmt: skip


def run(part: Part, limit: float, out: Path) -> tuple[str, float, str]:
    """Runs one part and returns its verdict, its seconds and the last line of its output.

    The whole output goes to OUT/<name>.log, with the output of failed processes at the end.
    """
    start = time.perf_counter()
    log = out / f"{part.name.replace(' ', '_')}.log"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *sys.path])}
    if len(part.commands) > 1:
        environment["OMP_NUM_THREADS"] = "1"  # otherwise each process would use all cores
    logs = [log.with_suffix(f".{k}.log") for k in range(len(part.commands))]
    processes, verdict = [], "ok"
    try:
        for command, path in zip(part.commands, logs, strict=True):
            with path.open("w") as file:
                # Each process has its own session, so that its workers end with it.
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


def check(round_: list[Part], total: float, out: Path, archive: Path) -> bool:
    """Runs the parts within `total` seconds, prints a table, and returns True if all are ok.

    Args:
        round_: the parts, in their order.
        total: seconds for all parts.
        out: folder of logs and rows.
        archive: the file into which `out` is packed after each part.
    """
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    end = time.perf_counter() + total
    rows = []
    for number, part in enumerate(round_):
        left = end - time.perf_counter()
        kept_free = sum(later.seconds for later in round_[number + 1 :])
        if left < 5:
            rows.append((part.name, "not run: no time left", 0.0, ""))
            continue
        several = f", {len(part.commands)} at once" if len(part.commands) > 1 else ""
        print(f"== {part.name}{several}: {' '.join(part.commands[0])[:200]}", flush=True)
        rows.append((part.name, *run(part, max(left - kept_free, min(part.seconds, left)), logs)))
        _, verdict, seconds, line = rows[-1]
        print(f"{verdict}, {seconds:.1f} s  {line[:120]}", flush=True)
        if verdict != "ok":
            print((logs / f"{part.name.replace(' ', '_')}.log").read_text(errors="replace")[-SHOWN:], flush=True)
        pack(out, archive)
    print(f"{'part':<26}{'verdict':<24}{'seconds':>8}  last line")
    for name, verdict, seconds, line in rows:
        print(f"{name:<26}{verdict:<24}{seconds:>8.1f}  {line[:120]}")
    return all(verdict == "ok" for _, verdict, _, _ in rows)


def pack(out: Path, archive: Path) -> None:
    """Writes logs and rows into one archive, whole or not at all; a full disk is only reported."""
    new = archive.with_name(f".{archive.name}")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(new, "w:gz") as file:
            for folder in ("logs", "rows"):
                if (out / folder).exists():
                    file.add(out / folder, folder)
        new.replace(archive)
    except OSError as error:
        print(f"{archive.name} could not be written: {error.strerror}", flush=True)


def draw(folder: Path, count: int = 64) -> None:
    """Writes small images of noise, for runs that may train on any images."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        pixels = torch.randint(0, 256, (48, 48, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(folder / f"{number:02d}.png")


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench gpu_check`."""
    parser = command_parser("gpu_check", __doc__)
    parser.add_argument("--data", type=Path, help="folder of photographs; without it loading is not timed")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/gpu_check", help="folder for logs, rows and runs")
    parser.add_argument(
        "--commit", help="full hash of the commit that this tree is a copy of, if it has no git history"
    )
    parser.add_argument("--seconds", type=at_least(5), default=TOTAL, help=f"for the whole round (default {TOTAL})")
    parser.add_argument(
        "--parts", metavar="NAME,...", help="these parts only, e.g. those that an earlier round had no time for"
    )
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.error("expected a GPU, but torch sees none; on a CPU run make test and make bench")
    os.environ["FASTMIM_RESULTS"] = str(args.out.resolve() / "rows")
    if args.commit:
        os.environ["FASTMIM_COMMIT"] = args.commit
    try:
        record.ready()
        records = True
    except ValueError as error:
        print(f"rows are in the logs only: {error}", flush=True)
        records = False
    images = (args.data or args.out / "images").resolve()
    if not args.data:
        draw(images)
        print("without --data: loading is not timed", flush=True)
    shutil.rmtree(args.out / "runs", ignore_errors=True)
    found = parts(images, args.out.resolve() / "runs", bool(args.data), records)
    if args.parts:
        names = [part.name for part in found]
        if unknown := [name for name in args.parts.split(",") if name not in names]:
            parser.error(f"--parts: expected some of {','.join(names)}, got {unknown[0]!r}")
        found = [part for part in found if part.name in args.parts.split(",")]
    archive = Path(os.environ.get("OUT") or args.out) / "gpu_check.tar.gz"
    raise SystemExit(0 if check(found, args.seconds, args.out, archive) else 1)
