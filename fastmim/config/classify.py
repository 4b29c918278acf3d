"""Typed configuration of what follows pre-training: fine-tuning and linear probe of a classifier.

May import config, fields and tokens only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ..parts import Encoder
from .base import Data, Experiment, Optim, Run, Train
from .fields import check_bounds, check_types


@dataclass(frozen=True)
class LabelledData(Data):
    """Images with classes in: folders named by class, or a list file with a number behind each path."""

    test: str = "data/test"
    """Images of the same classes to measure accuracy on, in the same forms as `root`."""
    test_size: tuple[int, int] | None = None
    """Height and width of a test image, pixels; None = `size`. Others need a convolutional network."""
    crop_pct: float = 224 / 256
    """Side of the central window of a test image that is looked at, as a fraction of the largest one that fits."""
    test_interpolation: Literal["bicubic", "bilinear"] | None = None
    """Filter of the resize of test images, antialiased; None = the training crop's."""
    held_out: int = 0
    """Has no use here: accuracy is measured on `test`."""

    def __post_init__(self):
        super().__post_init__()
        check_bounds(self, "data.", "test_size", at_least=1)
        check_bounds(self, "data.", "crop_pct", above=0, at_most=1)
        if self.held_out:
            raise ValueError(f"data.held_out: expected 0, got {self.held_out}: a classifier is tested on data.test")


@dataclass(frozen=True)
class Head:
    """From tokens to classes."""

    pool: Literal["mean", "cls"] = "mean"
    """The mean of all tokens but the class token, or the class token."""
    norm: Literal["before", "after", "new"] = "before"
    """The encoder's last norm: before pooling, as in pre-training; moved behind it; or dropped, and a new layer norm
    behind it."""
    init_std: float = 0.01
    """Deviation of the classifier's weights at first, which are normal; biases are 0. (Official code cuts them at 2,
    which none reaches.)"""

    def __post_init__(self):
        check_types(self, "head.")
        check_bounds(self, "head.", "init_std", at_least=0, below=math.inf)


@dataclass(frozen=True)
class Augment:
    """Changes of training images and labels beside crop and flip, made by timm's parts."""

    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's description of RandAugment; None = none."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation; 0 = none. Without `rand_augment` only."""
    erase: float = 0.25
    """Probability that a rectangle of an image, 2 % to a third of it, becomes noise, different in each pixel."""
    mixup: float = 0.8
    """Parameter of the beta distribution of mixup (arXiv:1710.09412); 0 = none."""
    cutmix: float = 1.0
    """Of CutMix (arXiv:1905.04899); 0 = none. With both, a micro-batch takes one, drawn with equal chances."""
    smoothing: float = 0.1
    """Label smoothing: what part of the target is spread evenly over all classes."""
    loss: Literal["ce", "bce"] = "ce"
    """Cross-entropy of the softmax, or the sum over classes of binary ones."""

    def __post_init__(self):
        check_types(self, "augment.")
        check_bounds(self, "augment.", "erase", at_least=0, at_most=1)
        check_bounds(self, "augment.", "color_jitter", "mixup", "cutmix", at_least=0, below=math.inf)
        check_bounds(self, "augment.", "smoothing", at_least=0, below=1)
        if self.rand_augment and self.color_jitter:
            raise ValueError(
                "augment.color_jitter: timm has no effect of it beside RandAugment, which changes colours too: set "
                "augment.rand_augment=None or color_jitter=0"
            )


@dataclass(frozen=True)
class EMA:
    """An average of the weights over the updates, which is tested in their place."""

    decay: float | None = None
    """Part that stays from one update to the next; None = the weights themselves are tested."""
    warmup_epochs: float = 0.0
    """Epochs over which the decay rises linearly from 0.9 of itself (openmmlab's EMAHook in A2MIM's recipes)."""

    def __post_init__(self):
        check_types(self, "ema.")
        check_bounds(self, "ema.", "decay", at_least=0, below=1)
        check_bounds(self, "ema.", "warmup_epochs", at_least=0, below=math.inf)


@dataclass(frozen=True)
class Finetune(Experiment):
    """A classifier, of which everything is trained: encoder, head, augmentation, data, optimisation."""

    encoder: Encoder
    data: LabelledData
    head: Head = field(default_factory=Head)
    augment: Augment = field(default_factory=Augment)
    ema: EMA = field(default_factory=EMA)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    run: Run = field(default_factory=Run)

    def __post_init__(self):
        if self.ema.decay is not None and self.train.zero_stage == 3:
            raise ValueError(
                "ema.decay needs train.zero_stage below 3, where no process holds all weights to average; got 3"
            )


@dataclass(frozen=True)
class Probe(Experiment):
    """A linear classifier on what a frozen encoder gives, each feature first normalised over the batch."""

    encoder: Encoder
    data: LabelledData
    head: Head = field(default_factory=Head)
    calibrate: int = 2048
    """Training images, undisturbed, of which an encoder's batch norms take their statistics first: those of
    pre-training are of masked images."""
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    run: Run = field(default_factory=Run)

    augment: ClassVar[Augment] = Augment(rand_augment=None, erase=0.0, mixup=0.0, cutmix=0.0, smoothing=0.0)

    def __post_init__(self):
        check_bounds(self, "", "calibrate", at_least=1)
