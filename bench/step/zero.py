"""Compares the ZeRO stages: losses, speed and memory of a few updates, by default of ViT-B MAE.

Trains the config on two processes at each stage, in fp32 and in bf16 with fp32 master weights. The exit status is 1 if
the losses of a stage differ from those of the first stage.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from bench.options import command_parser
from bench.record import Record, record, relative
from bench.step import trial
from fastmim.host.command import at_least

DEFAULT = "configs/mae/pretrain/vit_base_patch16_224_800ep.py"
RUNS = {"fp32": ((0, 1, 2, 3), 1e-5), "bf16-master": ((1, 2, 3), 1e-3)}
"""Stages of each precision, and the largest relative difference between their losses.

bf16-master has no stage 0, because at stage 0 the optimizer is fastmim's, not DeepSpeed's.
"""


def train(
    config: str, data: str, precision: str, stage: int, ranks: int, batch: int, updates: int
) -> tuple[list[float], dict]:
    """Returns the loss of every update, averaged over ranks, and the figures of speed and memory.

    Args:
        config: the config's file.
        data: folder of images.
        precision: precision of the engine.
        stage: ZeRO stage.
        ranks: number of processes.
        batch: images per update, on all ranks together.
        updates: number of updates, the first untimed.
    """
    settings = {
        "data.root": data, "train.global_batch": batch, "train.micro_batch": batch // ranks,
        "train.precision": precision, "train.zero_stage": stage, "optim.blr": 4.8e-3, "optim.warmup_epochs": 0,
    }  # fmt: skip
    trials = trial.launch(config, [f"{name}={value}" for name, value in settings.items()], ranks, updates - 1, 1)
    if trials is None:
        raise MemoryError
    losses = [statistics.fmean(values) for values in zip(*(t.losses for t in trials), strict=True)]
    return losses, {
        "images_per_s": trials[0].images_per_second,
        "peak_bytes": max(t.peak for t in trials),
        "device": trials[0].device,
    }


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench zero`."""
    parser = command_parser("zero", __doc__)
    parser.add_argument("--config", default=DEFAULT, help="config file of pre-training (default: %(default)s)")
    parser.add_argument("--data", required=True, help="folder of images")
    parser.add_argument("--ranks", type=at_least(1), default=2, help="processes (default: 2)")
    parser.add_argument("--batch", type=at_least(1), default=8, help="images per update (default: 8)")
    parser.add_argument(
        "--updates", type=at_least(2), default=5, help="updates per run, the first untimed (default: 5)"
    )
    parser.add_argument("--precision", choices=RUNS, help="this precision only (default: both)")
    parser.add_argument("--record", action=Record)
    arguments = parser.parse_args(argv)
    if not Path(arguments.data).exists():
        parser.error(f"--data: expected a folder of images, found nothing at {arguments.data}")
    print(f"{'precision':<13}{'stage':>6}{'images/s':>10}{'GiB/rank':>10}{'largest difference':>20}  losses")
    failed, name = False, relative(Path(arguments.config).resolve())
    for precision, (stages, tolerance) in RUNS.items():
        if arguments.precision not in (None, precision):
            continue
        first = None
        for stage in stages:
            losses, figures = train(
                arguments.config, arguments.data, precision, stage, arguments.ranks, arguments.batch, arguments.updates
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
                    "case": f"{name}, ZeRO {stage}, {precision}", "config": name, "ranks": arguments.ranks,
                    "global_batch": arguments.batch, "losses": losses,
                    "largest_relative_difference": difference, **figures,
                }  # fmt: skip
                record(row, "zero")
    raise SystemExit(failed)
