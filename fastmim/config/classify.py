"""Settings of image classification: fine-tuning and the linear probe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from .base import Experiment, ImageData
from .fields import check_bounds, check_types


@dataclass(frozen=True)
class LabelledData(ImageData):
    """Images with classes: folders named by class, or a list file with a class number after each path."""

    test: str = "data/test"
    """Test images of the same classes, in the same forms as `root`."""
    test_size: tuple[int, int] | None = None
    """Height and width of a test image, pixels; None = `size`. Another size needs a convolutional network."""
    crop_pct: float = 224 / 256
    """Side of the central window of a test image, as a fraction of the largest window that fits."""
    test_interpolation: Literal["bicubic", "bilinear"] | None = None
    """Filter of the resize of test images, antialiased; None = the filter of the training crop."""

    def __post_init__(self):
        super().__post_init__()
        check_bounds(self, "data.", "test_size", at_least=1)
        check_bounds(self, "data.", "crop_pct", above=0, at_most=1)


@dataclass(frozen=True)
class Head:
    """The classification head: pooling of the encoder's tokens, a norm, and a linear layer."""

    pool: Literal["mean", "cls"] = "mean"
    """Pooling: the mean of all tokens except the class token, or the class token."""
    norm: Literal["before", "after", "new"] = "before"
    """Place of the norm: before or after the pooling, or a new norm after the pooling.
    before = the encoder's last norm stays before the pooling, as in pre-training; after = the encoder's last norm
    follows the pooling; new = the encoder's last norm is dropped, and a new layer norm follows the pooling."""
    init_std: float = 0.01
    """Standard deviation of the linear layer's initial weights, which are normal; biases start at 0.
    Official code cuts the weights at 2, a value that no weight reaches."""

    def __post_init__(self):
        check_types(self, "head.")
        check_bounds(self, "head.", "init_std", at_least=0, below=math.inf)


@dataclass(frozen=True)
class Augment:
    """Augmentation of training images and labels, beside crop and flip. The methods are timm's."""

    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    """RandAugment in timm's notation; None = no RandAugment."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation; 0 = no change.
    Needs rand_augment=None."""
    erase: float = 0.25
    """Probability that a random rectangle of an image becomes noise.
    The rectangle has 2 % to a third of the image's area. The noise differs in each pixel."""
    mixup: float = 0.8
    """Parameter of the beta distribution of mixup (arXiv:1710.09412); 0 = no mixup."""
    cutmix: float = 1.0
    """Parameter of the beta distribution of CutMix (arXiv:1905.04899); 0 = no CutMix.
    If both are on, each micro-batch uses one of them, drawn with equal chances."""
    smoothing: float = 0.1
    """Label smoothing: the part of the target that is spread evenly over all classes."""
    loss: Literal["ce", "bce"] = "ce"
    """Loss: cross-entropy of the softmax, or the sum over classes of binary cross-entropies."""

    def __post_init__(self):
        check_types(self, "augment.")
        check_bounds(self, "augment.", "erase", at_least=0, at_most=1)
        check_bounds(self, "augment.", "color_jitter", "mixup", "cutmix", at_least=0, below=math.inf)
        check_bounds(self, "augment.", "smoothing", at_least=0, below=1)
        if self.rand_augment and self.color_jitter:
            raise ValueError(
                f"augment.color_jitter: expected 0 beside RandAugment, which changes colours too, got "
                f"{self.color_jitter}: set augment.rand_augment=None or augment.color_jitter=0"
            )


@dataclass(frozen=True)
class EMA:
    """An exponential moving average of the weights, which is tested in place of the weights."""

    decay: float | None = None
    """Weight of the old average at each update; None = no average, and the weights are tested."""
    warmup_epochs: float = 0.0
    """Epochs over which the decay rises linearly from 0.9 times `decay` to `decay`.
    Source: openmmlab's EMAHook, in A2MIM's recipes."""

    def __post_init__(self):
        check_types(self, "ema.")
        check_bounds(self, "ema.", "decay", at_least=0, below=1)
        check_bounds(self, "ema.", "warmup_epochs", at_least=0, below=math.inf)


@dataclass(frozen=True, kw_only=True)
class Finetune(Experiment):
    """A fine-tuning run: encoder and classification head are trained together."""

    data: LabelledData
    head: Head = field(default_factory=Head)
    augment: Augment = field(default_factory=Augment)
    ema: EMA = field(default_factory=EMA)

    def __post_init__(self):
        if self.ema.decay is not None and self.train.zero_stage == 3:
            raise ValueError(
                "ema.decay needs train.zero_stage below 3, where no process holds all weights to average; got 3"
            )


@dataclass(frozen=True, kw_only=True)
class Probe(Experiment):
    """A linear probe: a linear classifier on the features of a frozen encoder, normalised over the batch."""

    data: LabelledData
    head: Head = field(default_factory=Head)
    calibrate: int = 2048
    """Number of training images from which the encoder's batch norms take new statistics at the start.
    The images are not augmented. The batch norms' statistics of pre-training come from masked images."""

    augment: ClassVar[Augment] = Augment(rand_augment=None, erase=0.0, mixup=0.0, cutmix=0.0, smoothing=0.0)

    def __post_init__(self):
        check_bounds(self, "", "calibrate", at_least=1)
