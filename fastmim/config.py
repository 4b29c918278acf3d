"""Typed configuration: what a run is. Knows the base class of each part, never a concrete part.

May import tokens only.
"""

from __future__ import annotations

import dataclasses
import json
import runpy
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .tokens import Crop, Decoder, Encoder, Loss, Masking, Target


@dataclass(frozen=True)
class Data:
    """Images in."""

    crop: Crop
    """Window of each image that is trained on."""
    root: str = "data/train"
    """A folder of images (flat, nested or by class), or a text file that lists one image a line."""
    size: tuple[int, int] = (224, 224)
    """Height and width of a training sample, pixels."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Channel means, on the 0..1 scale."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Channel standard deviations, on the 0..1 scale."""
    repeats: int = 1
    """Times each image is seen per epoch, each time with its own crop and mask."""
    held_out: int = 8
    """Images kept out of training for the reconstruction grids and the comparison with trivial predictors."""
    workers: int = 0
    """Decoding threads per process; 0 = the process's share of the CPU cores."""
    prefetch: int = 4
    """Micro-batches decoded ahead."""


@dataclass(frozen=True)
class Optim:
    """AdamW and its learning rate."""

    blr: float = 1.5e-4
    """Base learning rate: lr = blr * global_batch / lr_batch."""
    lr_batch: int = 256
    """Batch size that `blr` refers to."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine, absolute."""
    warmup_epochs: float = 40
    """Epochs of linear warm-up from 0."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moment decay rates."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.05
    """Decoupled weight decay; 1-D parameters and biases have none."""
    clip: float | None = None
    """Global gradient norm above which gradients are scaled down; None = no clipping."""


@dataclass(frozen=True)
class Train:
    """How long, how much at once, and in which arithmetic."""

    epochs: float = 800
    """Passes over the training images."""
    global_batch: int = 4096
    """Images per optimizer update, over all processes. Written once: everything else follows from it."""
    micro_batch: int | None = None
    """Images per process per forward; None = global_batch / processes. The rest is gradient accumulation."""
    seed: int = 0
    """Seed of initialisation, order, crops, flips and masks."""
    precision: Literal["auto", "fp32", "autocast", "autocast-fp16", "bf16-master"] = "auto"
    """fp32; autocast (fp32 weights, bf16 compute); autocast-fp16 (with loss scaling, ZeRO 0 only); bf16-master (bf16
    weights, fp32 masters). auto = autocast on a GPU and on CPUs with bf16 matrix instructions, else fp32."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage: 1 shards optimizer state, 2 gradients too, 3 parameters too."""
    offload: bool = False
    """Keep optimizer state in host memory (ZeRO >= 1)."""
    activation_checkpointing: bool = False
    """Recompute each transformer block in the backward pass instead of storing its activations."""
    deterministic: bool = False
    """Bit-identical GPU runs, at some cost in speed. CPU runs always are."""
    kernels: Literal["auto", "reference"] = "auto"
    """auto = C++ on CPU, Triton on GPU; reference = plain torch everywhere."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto = a GPU if there is one."""
    deepspeed: str | None = None
    """A JSON file of further DeepSpeed settings, merged into the derived ones; conflicts are named and refused."""
    max_skipped: int = 5
    """Updates in a row that may be skipped for a non-finite gradient before the run stops."""


@dataclass(frozen=True)
class Run:
    """Where results go and how often."""

    dir: str = "runs/run"
    """Run folder: config, metrics, checkpoints, pictures, exported encoder."""
    resume: bool = True
    """Continue from the newest valid checkpoint in the run folder."""
    save_every: int = 500
    """Updates between checkpoints."""
    keep: int = 2
    """Checkpoints kept; the oldest goes only when a newer one is durable."""
    log_every: int = 20
    """Updates between log lines: the only time the host waits for the device."""
    evaluate_every: int = 500
    """Updates between reconstruction grids and losses on the held-out images; 0 = never."""
    stop_after: int | None = None
    """Stop after this many updates in total, saving; the schedule is unchanged."""
    trace: bool = False
    """Write a hash of loss, gradient norm, parameters, samples and masks of every update to trace.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard events."""


@dataclass(frozen=True)
class Config:
    """A pre-training run: masking x encoder x decoder x target x loss, data, optimisation."""

    masking: Masking
    encoder: Encoder
    decoder: Decoder
    target: Target
    loss: Loss
    data: Data
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    run: Run = field(default_factory=Run)
