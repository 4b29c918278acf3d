"""ViT-B MAE at every ZeRO stage: do the losses agree, how fast, how much memory?

`python -m bench.zero --data FOLDER` trains the real ViT-B config for a few updates on two processes at each stage, in
fp32 and in bf16 with fp32 masters. May import bench.record only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .record import record

CONFIG = "configs/mae/pretrain/vit_base_patch16_224_800ep.py"
# Agreement with the first stage of the precision. DeepSpeed's stage 0 has no bf16 block: the optimizer there is ours.
RUNS = {"fp32": ((0, 1, 2, 3), 1e-5), "bf16-master": ((1, 2, 3), 1e-3)}


def train(data: str, precision: str, stage: int, ranks: int, batch: int, updates: int) -> tuple[list[float], dict]:
    """Losses of every update, and the last line of metrics.jsonl."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks), "fastmim/train.py", CONFIG]
        settings = {
            "data.root": data, "run.dir": folder, "run.log_every": 1, "run.stop_after": updates,
            "run.save_every": 10**6, "run.evaluate_every": 0, "train.global_batch": batch,
            "train.micro_batch": batch // ranks, "train.precision": precision, "train.zero_stage": stage,
            "optim.blr": 4.8e-3, "optim.warmup_epochs": 0,
        }  # fmt: skip
        arguments = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        subprocess.run([sys.executable, *command, *arguments], check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    steady = rows[1:]  # the first one warms up
    return [row["loss"] for row in rows], {
        "images_per_s": statistics.median(row["images_per_s"] for row in steady),
        "peak_bytes_of_rank_0": rows[-1]["peak_bytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of images")
    parser.add_argument("--ranks", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--batch", type=int, default=8, help="images per update (default: 8)")
    parser.add_argument("--updates", type=int, default=5, help="updates per run (default: 5)")
    parser.add_argument("--precision", choices=RUNS, help="only this one (default: both)")
    parser.add_argument("--record", action="store_true", help="append the rows to bench/results/")
    arguments = parser.parse_args()
    print(f"{'precision':<13}{'stage':>6}{'images/s':>10}{'GiB/rank':>10}{'largest difference':>20}  losses")
    failed = False
    for precision, (stages, tolerance) in RUNS.items():
        if arguments.precision not in (None, precision):
            continue
        first = None
        for stage in stages:
            losses, figures = train(
                arguments.data, precision, stage, arguments.ranks, arguments.batch, arguments.updates
            )
            first = first or losses
            difference = max(abs(a - b) / abs(b) for a, b in zip(losses, first, strict=True))
            failed |= difference > tolerance
            print(
                f"{precision:<13}{stage:>6}{figures['images_per_s']:>10.2f}"
                f"{figures['peak_bytes_of_rank_0'] / 2**30:>10.2f}{difference:>20.1e}  "
                + " ".join(f"{loss:.6f}" for loss in losses),
                flush=True,
            )
            if arguments.record:
                row = {
                    "case": f"ViT-B MAE, ZeRO {stage}, {precision}", "config": CONFIG, "ranks": arguments.ranks,
                    "device": "cpu", "global_batch": arguments.batch, "losses": losses,
                    "largest_relative_difference": difference, **figures,
                }  # fmt: skip
                record(row, "zero")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
