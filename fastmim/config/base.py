"""Settings that every run shares.

This module knows only the base classes of parts, never a concrete part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..parts import Crop, Decoder, Encoder, ImageSpec, Loss, Masking, Target
from .fields import check_bounds, check_types

_MOST_PATTERNS, _LONGEST_PATTERN = 100, 1_000  # regular expressions of a field, and their characters


@dataclass(frozen=True)
class ImageData:
    """Training images: where they are, how samples are cut from them, and how they are decoded."""

    crop: Crop
    """Crop that cuts a training sample from an image."""
    root: str = "data/train"
    """Training images: a folder, a list file, or a manifest written by `fastmim doctor`.
    A folder may be flat, nested or sorted by class. A list file names one image a line. With a manifest, the run
    compares every file with its checksum."""
    size: tuple[int, int] = (224, 224)
    """Height and width of a training sample, pixels."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Channel means, on the 0..1 scale."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Channel standard deviations, on the 0..1 scale."""
    repeats: int = 1
    """Number of times that an epoch shows each image, each time with another crop and mask."""
    repeats_together: bool = False
    """True = the repeats of an image follow each other (repeated augmentation, arXiv:1902.05509).
    A batch then holds all repeats of an image, and an epoch has as many samples as there are images. False = the
    repeats are spread over an epoch that is `repeats` times as long."""
    loader: Literal["auto", "dali", "pillow"] = "auto"
    """Image decoder; auto = DALI if it is installed, else Pillow, which is slower."""
    bad_budget: float = 0.1
    """Largest fraction of bad images; with more, the run saves and stops.
    0 = stop at the first bad image, 1 = never stop. Another image replaces each bad file, and bad_files.jsonl names the
    file. Processes that do not share run.dir count separately. The same fraction of the test images may be bad; bad
    test images are left out."""
    workers: int = 0
    """Decoding threads per process; 0 = the process's share of the CPU cores."""
    prefetch: int = 4
    """Micro-batches that are decoded ahead of training."""
    decode_memory: int = 500
    """Memory that decoding one image may take, MB, including the file.
    The memory is estimated from the header. An image that needs more is a bad file. All threads of a process together
    use at most four times as much."""
    decode_seconds: float = 2.0
    """CPU time that decoding one image may take, seconds.
    The time is estimated from the header. An image that needs more, such as a JPEG with very many scans, is a bad
    file."""

    retired: ClassVar[dict[str, Any]] = {"held_out": 0, "held_out_root": None}
    """Fields in the JSON of older runs that have no use any more, with their only valid values."""

    def __post_init__(self):
        check_types(self, "data.")
        check_bounds(self, "data.", "size", at_least=1, at_most=16384)
        check_bounds(self, "data.", "flip", "bad_budget", at_least=0, at_most=1)
        check_bounds(self, "data.", "mean", above=-math.inf, below=math.inf)
        check_bounds(self, "data.", "std", above=0, below=math.inf)
        check_bounds(self, "data.", "decode_memory", at_least=1)
        check_bounds(self, "data.", "decode_seconds", above=0)
        check_bounds(self, "data.", "repeats", at_least=1, at_most=256)
        check_bounds(self, "data.", "workers", "prefetch", at_least=0, at_most=1024)
        if len(self.mean) != len(self.std):
            raise ValueError(f"data.mean and data.std: expected one number per channel, got {self.mean} and {self.std}")

    @property
    def image(self) -> ImageSpec:
        """Size and normalisation of the samples."""
        return ImageSpec(self.size, self.mean, self.std)


@dataclass(frozen=True)
class Data(ImageData):
    """Images of a pre-training run, some of which are held out of training."""

    held_out: int = 8
    """Images kept out of training.
    The reconstruction grids show these images, and the run is compared with trivial predictors on them. The images come
    from `held_out_root` if that folder is given, else from `root`."""
    held_out_root: str | None = None
    """Folder, list file or manifest of held-out images, none of which may be in `root`.
    The run then trains on all images of `root`. None = `held_out` images of `root` are left out of training."""

    def __post_init__(self):
        super().__post_init__()
        check_bounds(self, "data.", "held_out", at_least=0)
        if self.held_out_root and not self.held_out:
            raise ValueError(
                "data.held_out_root is set, but data.held_out=0 takes no image of the folder: raise data.held_out, or "
                "leave out data.held_out_root"
            )


@dataclass(frozen=True)
class Optim:
    """The optimizer and its learning rate."""

    algorithm: Literal["adamw", "lamb", "lars", "sgd"] = "adamw"
    """Optimizer: AdamW at any ZeRO stage; SGD, LAMB and LARS at stage 0 only.
    SGD with momentum is torch's, LAMB and LARS are timm's. LAMB and LARS need the norm of each whole parameter."""
    blr: float = 1.5e-4
    """Base learning rate. The peak learning rate is blr * train.global_batch / lr_batch."""
    lr_batch: int = 256
    """Batch size that `blr` refers to, images."""
    schedule: Literal["cosine", "linear", "multistep"] = "cosine"
    """Learning rate after warm-up: half a cosine or a line down to `min_lr`, or a drop in steps.
    "multistep" multiplies the rate by `decay_rate` at each of `decay_epochs`."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine or line, not scaled by the batch."""
    cosine_from: Literal["warmup", "start"] = "warmup"
    """Start of the cosine or line: the end of the warm-up, or epoch 0.
    With "start" the rate drops onto the curve when the warm-up ends."""
    decay_epochs: tuple[float, ...] = ()
    """Epochs at which "multistep" lowers the learning rate."""
    decay_rate: float = 0.1
    """Factor of the learning rate at each of `decay_epochs`."""
    warmup_epochs: float = 40
    """Length of the linear warm-up, epochs."""
    warmup_lr: float = 0.0
    """Learning rate at the start of the warm-up, not scaled by the batch."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the two moments of AdamW and LAMB."""
    eps: float = 1e-8
    """Epsilon of AdamW and LAMB."""
    momentum: float = 0.9
    """Momentum of LARS and SGD."""
    weight_decay: float = 0.05
    """Weight decay, decoupled except in LARS and SGD. Not applied to 1-D parameters and biases."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer of the encoder to the layer before.
    Modules after the encoder have factor 1."""
    no_decay: tuple[str, ...] = ()
    """Regular expressions that are searched in parameter names.
    Parameters that match have no weight decay."""
    decay: tuple[str, ...] = ()
    """Regular expressions that are searched in parameter names.
    Parameters that match have weight decay, even 1-D parameters and biases."""
    lr_scale: tuple[tuple[str, float], ...] = ()
    """Pairs (regular expression, factor of the learning rate).
    A pair applies to parameters whose name contains a match. If several pairs match, the last pair counts."""
    clip: float | None = None
    """Global gradient norm above which gradients are scaled down; None = no clipping."""

    def __post_init__(self):
        check_types(self, "optim.")
        check_bounds(self, "optim.", "lr_batch", at_least=1)
        rates = ("blr", "min_lr", "warmup_epochs", "warmup_lr", "weight_decay")
        check_bounds(self, "optim.", *rates, at_least=0, below=math.inf)
        check_bounds(self, "optim.", "decay_epochs", "decay_rate", above=0, below=math.inf)
        check_bounds(self, "optim.", "betas", "momentum", at_least=0, below=1)
        check_bounds(self, "optim.", "eps", "clip", above=0, below=math.inf)
        check_bounds(self, "optim.", "layer_decay", above=0, at_most=1)
        if self.schedule == "multistep" and not self.decay_epochs:
            raise ValueError("optim.schedule is multistep: give optim.decay_epochs, when the learning rate is lowered")
        scaled = tuple(pattern for pattern, _ in self.lr_scale)
        for name, patterns in (("no_decay", self.no_decay), ("decay", self.decay), ("lr_scale", scaled)):
            if len(patterns) > _MOST_PATTERNS or max(map(len, patterns), default=0) > _LONGEST_PATTERN:
                raise ValueError(
                    f"optim.{name}: expected at most {_MOST_PATTERNS} regular expressions of at most "
                    f"{_LONGEST_PATTERN} characters, got {len(patterns)} of up to {max(map(len, patterns))}"
                )
        for pattern, factor in self.lr_scale:
            if not 0 <= factor < math.inf:
                raise ValueError(f"optim.lr_scale: expected factors at least 0, got {factor} for {pattern!r}")


@dataclass(frozen=True)
class Train:
    """Length, batch, arithmetic and memory of a run."""

    epochs: float = 800
    """Passes over the training images."""
    global_batch: int = 4096
    """Images per optimizer update, over all processes."""
    micro_batch: int | None = None
    """Images per process and forward pass; None = global_batch / processes.
    Gradient accumulation makes up the rest of `global_batch`."""
    seed: int = 0
    """Seed of initialisation, order, crops, flips and masks; 0 <= seed < 2**63."""
    precision: Literal["auto", "fp32", "autocast", "autocast-fp16", "bf16-master"] = "auto"
    """Arithmetic of training.
    auto = autocast on a GPU and on CPUs with bf16 matrix instructions, else fp32; fp32 = fp32 weights and compute;
    autocast = fp32 weights, bf16 compute; autocast-fp16 = fp32 weights, fp16 compute and loss scaling, at ZeRO stage 0
    only; bf16-master = bf16 weights with fp32 masters."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage: 1 shards optimizer state, 2 also gradients, 3 also parameters.
    At stage 3 DeepSpeed's linear layers round before they add the bias, so bf16 results differ slightly from those of
    other stages."""
    offload: bool = False
    """Keep optimizer state in host memory (ZeRO 1 to 3 only)."""
    activation_checkpointing: bool = False
    """Recompute each transformer block in the backward pass instead of storing its activations."""
    deterministic: bool = False
    """Make GPU runs bit-identical, at some cost in speed. CPU runs always are."""
    kernels: Literal["auto", "reference"] = "auto"
    """Kernels: auto = C++ on a CPU, Triton on a GPU; reference = plain torch everywhere."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto = a GPU if there is one."""
    deepspeed: str | None = None
    """JSON file of further DeepSpeed settings, merged into the settings that fastmim derives.
    A conflict is named and refused."""
    max_skipped: int = 5
    """Consecutive updates that may be skipped for a non-finite loss or gradient before the run stops.
    autocast-fp16 allows 16 more updates, in which the loss scale falls from 65536 to 1."""
    timeout: float = 60
    """Seconds without a sign of life after which a process counts as frozen or dead.
    The other processes then save what can be saved, and end. If only all processes together can save, this is also the
    longest wait for an update after a signal."""

    def __post_init__(self):
        check_types(self, "train.")
        check_bounds(self, "train.", "epochs", above=0, at_most=10**9)
        check_bounds(self, "train.", "global_batch", "micro_batch", "max_skipped", at_least=1)
        check_bounds(self, "train.", "seed", at_least=0)
        check_bounds(self, "train.", "timeout", at_least=1, below=math.inf)


class DerivedFolder(str):
    """A `Run.dir` that the config file itself does not give: `load` replaces the folder.

    The folder is either the default of `Run.dir`, or that of a config which the config file loads.
    """


@dataclass(frozen=True)
class Run:
    """The run folder, and how often the run saves, logs and evaluates."""

    dir: str = DerivedFolder("runs/run")
    """Run folder: config, metrics, checkpoints, pictures and the exported encoder.
    A config file that gives no folder gets one from its own path: configs/debug/demo.py trains in runs/demo."""
    resume: bool = True
    """Continue from the newest valid checkpoint in the run folder."""
    init: str | None = None
    """Run folder whose newest checkpoint gives a new run its weights; None = weights from train.seed.
    The folder may be the output of `fastmim convert`. Runs other than pre-training take only the encoder, and also
    accept an exported encoder. The run takes data.mean and data.std from that folder, and the settings of the network
    that do not fit the weights. Updates, optimizer state and schedule start afresh."""
    save_every: int = 500
    """Updates between checkpoints."""
    keep: int = 2
    """Checkpoints to keep. The oldest is deleted only after a newer one is safely on the disk."""
    log_every: int = 20
    """Updates between log lines; if updates are slow, a line appears about once a minute.
    The host waits for the device only at a log line."""
    evaluate_every: int = 500
    """Updates between evaluations.
    Pre-training: held-out loss and pictures; 0 = never. Other tasks: test score; 0 = only at the end."""
    stop_after: int | None = None
    """Save and stop after this many updates in total; the schedule is unchanged."""
    trace: bool = False
    """Write a line for each update to trace.jsonl: hashes, loss and gradient norm.
    The hashes are those of parameters, samples and masks."""
    tensorboard: bool = False
    """Also write TensorBoard events."""

    def __post_init__(self):
        check_types(self, "run.")
        check_bounds(self, "run.", "save_every", "keep", "log_every", "stop_after", at_least=1)
        check_bounds(self, "run.", "evaluate_every", at_least=0)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Base class of a run's config, with the settings that every task has.

    Each task derives its own class.
    """

    encoder: Encoder
    data: ImageData
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    run: Run = field(default_factory=Run)


@dataclass(frozen=True, kw_only=True)
class Config(Experiment):
    """A pre-training run: masking x encoder x decoder x target x loss, data, optimisation."""

    masking: Masking
    decoder: Decoder
    target: Target
    loss: Loss
    data: Data


PARTS = (Masking, Encoder, Decoder, Target, Loss, Crop)
"""Base classes of the parts that a config names by class. A user can derive new parts from them."""


def is_own(part: type) -> bool:
    """True if a class is the user's own, not fastmim's."""
    return part.__module__.partition(".")[0] != "fastmim"


def subclasses(part: type) -> list[type]:
    """Returns a class and all its subclasses."""
    return [part, *(derived for child in part.__subclasses__() for derived in subclasses(child))]
