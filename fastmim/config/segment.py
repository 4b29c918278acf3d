"""Settings of semantic segmentation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from .base import Experiment, ImageData
from .fields import check_bounds, check_types

IGNORED = 255
"""Label of the pixels that neither the loss nor the score counts."""


@dataclass(frozen=True)
class MaskData(ImageData):
    """Images with label maps.

    The label map of an image has the same name in another folder, with any extension.

    A label map is an image file with one channel of 8 bits, gray or with a palette. Its values are the classes of the
    pixels: 0, 1, and so on. Pixels with 255 have no class and are not counted. A label map and its image have the same
    size after EXIF orientation.
    """

    masks: str = "data/train_masks"
    """Folder of the label maps of `root`.
    In ADE20K, images/training and annotations/training are such folders."""
    test: str = "data/test"
    """Test images, in the same forms as `root`."""
    test_masks: str = "data/test_masks"
    """Folder of the label maps of `test`."""
    classes: int = 150
    """Number of classes."""
    names: tuple[str, ...] = ()
    """Names of the classes in result.json; () = their numbers."""
    reduce_zero_label: bool = False
    """True = pixels with 0 have no class, like pixels with 255, and the classes are 1, 2, ... (ADE20K)."""
    test_mode: Literal["whole", "slide"] = "whole"
    """Treatment of test images: resized as a whole, or seen in windows.
    whole = the image is resized to fit into `size`, and padded. slide = the image is resized to cover `size`, like the
    training crop with fit="cover". The network then sees windows of `size`, and logits are averaged where windows
    overlap."""
    stride: tuple[int, int] | None = None
    """Rows and columns from one window of "slide" to the next, pixels.
    None = two thirds of `size`, rounded down."""

    def __post_init__(self):
        super().__post_init__()
        check_bounds(self, "data.", "classes", at_least=2, at_most=255)
        check_bounds(self, "data.", "stride", at_least=1)
        if self.names and (len(self.names) != self.classes or len(set(self.names)) != self.classes):
            raise ValueError(f"data.names: expected () or {self.classes} different names, got {len(self.names)}")
        if self.stride and any(step > side for step, side in zip(self.stride, self.size, strict=True)):
            raise ValueError(f"data.stride: expected at most data.size={self.size}, got {self.stride}: it leaves gaps")

    @property
    def step(self) -> tuple[int, int]:
        """Rows and columns from one window to the next, pixels: `stride`, or its default."""
        return self.stride or (max(1, 2 * self.size[0] // 3), max(1, 2 * self.size[1] // 3))


@dataclass(frozen=True)
class UPerNet:
    """The UPerNet decoder of segmentation-models-pytorch, followed by MMSegmentation's heads.

    Source: arXiv:1807.10221.

    If all maps of the encoder have the same stride, `PyramidLevels` first makes a pyramid of strides 4, 8, 16 and 32.
    """

    channels: int = 512
    """Channels of the decoder's maps."""
    blocks: tuple[int, ...] = ()
    """For a plain ViT: the four blocks whose outputs become the levels of strides 4, 8, 16 and 32.
    Blocks are counted from 0. The last of the four must be the last block of the encoder. () = the last block for all
    levels."""
    dropout: float = 0.1
    """Probability that a channel is dropped before the last layer in training."""
    aux_weight: float = 0.4
    """Weight of the loss of an auxiliary FCN head on the map of stride 16; 0 = no such head."""
    aux_channels: int = 256
    """Channels of the hidden layer of the auxiliary head."""
    bn_batch: int = 16
    """On GPUs: images over which batch norms share statistics, if a micro-batch holds fewer images."""

    def __post_init__(self):
        check_types(self, "decoder.")
        check_bounds(self, "decoder.", "channels", "aux_channels", "bn_batch", at_least=1)
        check_bounds(self, "decoder.", "blocks", at_least=0)
        check_bounds(self, "decoder.", "dropout", at_least=0, below=1)
        check_bounds(self, "decoder.", "aux_weight", at_least=0, below=math.inf)
        if len(self.blocks) not in (0, 4):
            raise ValueError(f"decoder.blocks: expected none or 4, one for each level, got {self.blocks}")


@dataclass(frozen=True, kw_only=True)
class Segment(Experiment):
    """A segmentation run: encoder and UPerNet label each pixel with a class."""

    data: MaskData
    decoder: UPerNet = field(default_factory=UPerNet)
    distort: bool = True
    """Change brightness, contrast, saturation and hue of training images, each with probability 1/2."""

    def __post_init__(self):
        if self.distort and self.data.image.channels != 3:
            raise ValueError(
                f"distort: expected images of 3 channels, got {self.data.image.channels}: set distort=False"
            )
