"""Typed configuration of semantic segmentation: images with masks, UPerNet on an encoder.

May import config, fields and tokens only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from ..parts import Encoder
from .base import Data, Experiment, Optim, Run, Train
from .fields import check_bounds, check_types

IGNORED = 255
"""The label of pixels that do not count."""


@dataclass(frozen=True)
class MaskData(Data):
    """Images and masks in: for each image a mask of the same name below another folder, whatever its extension.

    A mask is a file of one channel of 8 bits, gray or with a palette, whose values are the classes 0, 1, ... of the
    pixels; 255 = of no class, not counted. Mask and image, as seen, have the same size.
    """

    masks: str = "data/train_masks"
    """Folder of the masks of `root`; ADE20K has images/training and annotations/training."""
    test: str = "data/test"
    """Images to measure on, in the same forms as `root`."""
    test_masks: str = "data/test_masks"
    """Folder of the masks of `test`."""
    classes: int = 150
    """Number of classes."""
    names: tuple[str, ...] = ()
    """Names of the classes in result.json; () = their numbers."""
    reduce_zero_label: bool = False
    """0 is of no class either, and the classes are 1, 2, ... in the files (ADE20K)."""
    test_mode: Literal["whole", "slide"] = "whole"
    """Treatment of test images: resized to fit into `size`, the rest padding; or resized to cover it, as the crop
    with `fit` = "cover" does, and looked at through windows of `size`, whose logits are averaged where they overlap."""
    stride: tuple[int, int] | None = None
    """Rows and columns from one such window to the next, pixels; None = two thirds of `size`, rounded down."""
    held_out: int = 0
    """Has no use here: all is measured on `test`."""

    def __post_init__(self):
        super().__post_init__()
        check_bounds(self, "data.", "classes", at_least=2, at_most=255)
        check_bounds(self, "data.", "stride", at_least=1)
        if self.held_out:
            raise ValueError(f"data.held_out: expected 0, got {self.held_out}: segmentation is tested on data.test")
        if self.names and (len(self.names) != self.classes or len(set(self.names)) != self.classes):
            raise ValueError(f"data.names: expected () or {self.classes} different names, got {len(self.names)}")
        if self.stride and any(step > side for step, side in zip(self.stride, self.size, strict=True)):
            raise ValueError(f"data.stride: expected at most data.size={self.size}, got {self.stride}: it leaves gaps")

    @property
    def step(self) -> tuple[int, int]:
        """`stride`, whatever stands for it."""
        return self.stride or tuple(max(1, 2 * side // 3) for side in self.size)


@dataclass(frozen=True)
class UPerNet:
    """The decoder of arXiv:1807.10221, segmentation-models-pytorch's, and MMSegmentation's heads behind it.

    An encoder whose maps all have one stride gets a pyramid of strides 4, 8, 16 and 32 (see `pyramid.Levels`).
    """

    channels: int = 512
    """Of its maps."""
    blocks: tuple[int, ...] = ()
    """Of a plain ViT: the blocks, from 0, whose outputs become the levels of strides 4, 8, 16 and 32, the last
    block at the end; () = the last one, for all of them."""
    dropout: float = 0.1
    """Part of the channels that the last layer does not see in training."""
    aux_weight: float = 0.4
    """Weight of the loss of a second, convolutional head (FCN) on the map of stride 16; 0 = none."""
    aux_channels: int = 256
    """Of its hidden layer."""
    bn_batch: int = 16
    """Images whose statistics the batch norms use together (on GPUs), if a micro-batch holds fewer."""

    def __post_init__(self):
        check_types(self, "decoder.")
        check_bounds(self, "decoder.", "channels", "aux_channels", "bn_batch", at_least=1)
        check_bounds(self, "decoder.", "blocks", at_least=0)
        check_bounds(self, "decoder.", "dropout", at_least=0, below=1)
        check_bounds(self, "decoder.", "aux_weight", at_least=0, below=math.inf)
        if len(self.blocks) not in (0, 4):
            raise ValueError(f"decoder.blocks: expected none or 4, one for each level, got {self.blocks}")


@dataclass(frozen=True)
class Segment(Experiment):
    """Semantic segmentation, of which everything is trained: encoder, decoder, data, optimisation."""

    encoder: Encoder
    data: MaskData
    decoder: UPerNet = field(default_factory=UPerNet)
    distort: bool = True
    """Change brightness, contrast, saturation and hue of training images, each with a probability of a half."""
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    run: Run = field(default_factory=Run)

    def __post_init__(self):
        if self.distort and self.data.image.channels != 3:
            raise ValueError(f"distort needs images of 3 channels, got {self.data.image.channels}: set it to False")
