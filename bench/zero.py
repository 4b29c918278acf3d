"""ViT-B MAE at every ZeRO stage: do the losses agree, how fast, how much memory?

`python -m bench.zero --data FOLDER` trains the real ViT-B config for a few updates on two processes at each stage, in
fp32 and in bf16 with fp32 masters.
"""

# May import bench only.

from __future__ import annotations

import statistics
from pathlib import Path

from bench import trial
from bench.record import Record, record
from fastmim.host.command import Parser, at_least, refusing

CONFIG = "configs/mae/pretrain/vit_base_patch16_224_800ep.py"
# Agreement with the first stage of the precision. DeepSpeed's stage 0 has no bf16 block: the optimizer there is ours.
RUNS = {"fp32": ((0, 1, 2, 3), 1e-5), "bf16-master": ((1, 2, 3), 1e-3)}


def train(data: str, precision: str, stage: int, ranks: int, batch: int, updates: int) -> tuple[list[float], dict]:
    """Losses of every update, the mean over ranks; speed and memory."""
    settings = {
        "data.root": data, "train.global_batch": batch, "train.micro_batch": batch // ranks,
        "train.precision": precision, "train.zero_stage": stage, "optim.blr": 4.8e-3, "optim.warmup_epochs": 0,
    }  # fmt: skip
    trials = trial.launch(CONFIG, [f"{name}={value}" for name, value in settings.items()], ranks, updates - 1, 1)
    losses = [statistics.fmean(values) for values in zip(*(t.losses for t in trials), strict=True)]
    return losses, {
        "images_per_s": trials[0].images_per_second,
        "peak_bytes": max(t.peak for t in trials),
        "device": trials[0].device,
    }


def main() -> None:
    parser = Parser("python -m bench.zero", __doc__)
    parser.add_argument("--data", required=True, help="folder of images")
    parser.add_argument("--ranks", type=at_least(1), default=2, help="processes (default: 2)")
    parser.add_argument("--batch", type=at_least(1), default=8, help="images per update (default: 8)")
    parser.add_argument(
        "--updates", type=at_least(2), default=5, help="updates per run, the first untimed (default: 5)"
    )
    parser.add_argument("--precision", choices=RUNS, help="only this one (default: both)")
    parser.add_argument("--record", action=Record)
    arguments = parser.parse_args()
    if not Path(arguments.data).exists():
        parser.error(f"--data: expected a folder of images, found nothing at {arguments.data}")
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
                f"{figures['peak_bytes'] / 2**30:>10.2f}{difference:>20.1e}  "
                + " ".join(f"{loss:.6f}" for loss in losses),
                flush=True,
            )
            if arguments.record:
                row = {
                    "case": f"ViT-B MAE, ZeRO {stage}, {precision}", "config": CONFIG, "ranks": arguments.ranks,
                    "global_batch": arguments.batch, "losses": losses,
                    "largest_relative_difference": difference, **figures,
                }  # fmt: skip
                record(row, "zero")
    raise SystemExit(failed)


if __name__ == "__main__":
    with refusing("python -m bench.zero"):
        main()
