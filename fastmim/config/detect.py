"""Typed configuration of detection and instance segmentation after pre-training.

May import config, fields and tokens only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..parts import Encoder
from .base import Data, Experiment, Optim, Run, Train
from .fields import check_bounds, check_types


@dataclass(frozen=True)
class AnnotatedData(Data):
    """Images with boxes and masks of objects in COCO's format. Those without objects are not trained on."""

    annotations: str = "data/annotations/train.json"
    """File in COCO's format; its `file_name`s are looked for in `root`."""
    test: str = "data/test"
    """Images to measure average precision on, in the same forms as `root`."""
    test_annotations: str = "data/annotations/test.json"
    """File in COCO's format, of the same categories. All its images count, those without objects too."""
    size: tuple[int, int] = (1024, 1024)
    """Height and width of a sample, pixels. A test image is made as large as fits, and padded."""
    held_out: int = 0
    """Has no use here: precision is measured on `test`."""

    def __post_init__(self):
        super().__post_init__()
        if self.held_out:
            raise ValueError(f"data.held_out: expected 0, got {self.held_out}: a detector is tested on data.test")
        wide = self.size[0], 4 * self.size[1]
        if self.crop.cut(wide, self.size, [0.5] * self.crop.draws).offset != (0, 0):
            raise ValueError(
                f"data.crop: {type(self.crop).__name__} cuts samples from an image with a border of reflections, "
                "which boxes do not follow: use ScaleJitterCrop, RandomResizedCrop or CenterCrop"
            )


@dataclass(frozen=True)
class RCNN:
    """Torchvision's Mask R-CNN on a pyramid of maps; what is not here is torchvision's default."""

    channels: int = 256
    """Of each map of the pyramid, and of the convolutions on them."""
    norm: Literal["layer", "none"] = "layer"
    """Layer norm over channels behind the convolutions of pyramid, box head and mask head, or nothing."""
    rpn_convs: int = 2
    """3x3 convolutions of the region proposal network."""
    box_convs: int = 4
    """3x3 convolutions in front of the box head's hidden layer; 0 = two hidden layers and no convolution."""
    box_width: int = 1024
    """Width of the box head's hidden layers."""
    mask_convs: int = 4
    """3x3 convolutions of the mask head."""
    anchor: float = 8.0
    """Side of a map's square anchor, in its strides; those half and twice as high as wide have the same area."""
    proposals: int = 512
    """Of each image, that box and mask heads are trained on."""

    def __post_init__(self):
        check_types(self, "rcnn.")
        check_bounds(self, "rcnn.", "channels", "rpn_convs", "box_width", "mask_convs", "proposals", at_least=1)
        check_bounds(self, "rcnn.", "box_convs", at_least=0)
        check_bounds(self, "rcnn.", "anchor", above=0)


@dataclass(frozen=True)
class Detect(Experiment):
    """A detector of objects and their masks: encoder, heads, data, optimisation."""

    encoder: Encoder
    data: AnnotatedData
    rcnn: RCNN = field(default_factory=RCNN)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    run: Run = field(default_factory=Run)
