"""Projects the hours of a config's own schedule on this machine, from a few real training steps.

The command prints medians after warm-up: images a second, projected hours, and the share of the time spent waiting for
images. Model FLOPs (three forward passes) are compared with a matrix product timed in the same run (HMU), and with
`--peak` (MFU). For several processes, run `deepspeed --no_local_rank --module bench hours ...`.
"""

from __future__ import annotations

import gc
import math
import statistics
from pathlib import Path

import torch

import fastmim_kernels
from bench import record
from bench.options import add_configs, add_settings, command_parser
from bench.step import flops, trial
from bench.timing import matmul_rate, spread
from fastmim.config import base as config
from fastmim.engine.process import init_distributed
from fastmim.host.command import at_least


def row(
    path: str, cfg: config.Config, result: trial.Trial, rate: float, images: int | None, peak: float | None
) -> dict:
    """Returns the figures of one config.

    Args:
        path: the config's file.
        cfg: the config.
        result: the timed steps.
        rate: FLOP/s of a matrix product on this device.
        images: size of the data set whose epochs the schedule counts; None = the folder of the timed steps.
        peak: FLOP/s that the device's maker states, for the MFU.
    """
    speed = result.images_per_second
    source = "those of data.root" if images is None else "given by --images"
    images = result.images if images is None else images
    forward = flops.ours(cfg)
    done = speed / result.world * flops.TRAINING * forward
    p20, p80 = spread(result.seconds)
    hours = cfg.train.epochs * images * cfg.data.repeats / speed / 3600
    processes = f", {result.world} processes" if result.world > 1 else ""
    return {
        "case": f"{record.relative(Path(path).resolve())}, {result.precision}, batch {result.batch}{processes}",
        "config": record.relative(Path(path).resolve()),
        "precision": result.precision,
        "stage": cfg.train.zero_stage,
        "checkpointing": cfg.train.activation_checkpointing,
        "ranks": result.world,
        "batch": result.batch,
        "epochs": cfg.train.epochs,
        "images": images,
        "images of": source,
        "images/s": speed,
        "s/step": statistics.median(result.seconds),
        "p20": p20,
        "p80": p80,
        "projected hours": hours,
        "data stall": result.stall,
        "GFLOP/image": flops.TRAINING * forward / 1e9,
        "FLOPs of": "what is computed, three forwards",
        "matmul TFLOP/s": rate / 1e12,
        "HMU": done / rate,
        "device": result.device,
    } | ({} if peak is None else {"peak TFLOP/s": peak / 1e12, "MFU": done / peak})


def text(row: dict) -> str:
    """Returns a row as one readable line."""
    device = "CPU" if row["device"] == "cpu" else torch.cuda.get_device_name()
    mfu = f", MFU {row['MFU']:.1%} of {row['peak TFLOP/s']:.4g} TFLOP/s" if "MFU" in row else ""
    return (
        f"{row['case']}, {device}: {row['images/s']:.4g} images/s ({row['s/step']:.4g} s/step, p20 {row['p20']:.4g}, "
        f"p80 {row['p80']:.4g}), {row['projected hours']:.4g} hours projected for {row['epochs']:g} epochs of "
        f"{row['images']} images ({row['images of']}), data stall {row['data stall']:.1%}, "
        f"{row['GFLOP/image']:.4g} GFLOP/image ({row['FLOPs of']}), HMU {row['HMU']:.1%} of "
        f"{row['matmul TFLOP/s']:.4g} TFLOP/s measured{mfu}"
    )


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench hours`."""
    parser = command_parser("hours", __doc__)
    add_configs(parser)
    parser.add_argument("--data", help="folder of images (default: the config's)")
    parser.add_argument("--batch", type=at_least(1), default=8, help="images per process per step (default 8)")
    parser.add_argument("--steps", type=at_least(1), default=20, help="timed steps (default 20)")
    parser.add_argument(
        "--warmup", type=at_least(0), help="untimed steps (default: until images read in advance are used up)"
    )
    parser.add_argument(
        "--images", type=at_least(1), help="images in an epoch (default: the folder's; ImageNet-1k has 1281167)"
    )
    parser.add_argument("--peak", type=float, help="TFLOP/s that the device's maker states, for the MFU")
    add_settings(parser)
    parser.add_argument("--record", action=record.Record)
    args = parser.parse_args(argv)
    if args.peak is not None and not 0 < args.peak < math.inf:
        parser.error(f"--peak: expected above 0 and below inf, got {args.peak}")
    settings = [*args.set, *([f"data.root={args.data}"] if args.data else []), f"train.micro_batch={args.batch}"]
    try:
        configs = [(path, trial.load(path, settings)) for path in args.configs]
    except ValueError as error:
        parser.error(str(error))
    process = init_distributed(configs[0][1].train.device)
    fastmim_kernels.require({"cuda": "triton", "cpu": "cpp"}[process.device.type])
    for path, loaded in configs:
        cfg = trial.with_batch(loaded, args.batch * process.world)
        warmup = cfg.data.prefetch + 2 if args.warmup is None else args.warmup
        try:
            result = trial.run(cfg, process, args.steps, warmup)
        except ValueError as error:
            parser.error(f"{path}: {error}")
        rate = matmul_rate(process.device, torch.float32 if result.precision == "fp32" else torch.bfloat16)
        if process.rank == 0:
            figures = row(path, cfg, result, rate, args.images, args.peak and args.peak * 1e12)
            print(text(figures), flush=True)
            if args.record:
                record.record(figures, "hours")
        gc.collect()  # the engine's parts refer to each other
