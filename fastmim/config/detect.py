"""Settings of object detection and instance segmentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .base import Experiment, ImageData
from .fields import check_bounds, check_types


@dataclass(frozen=True)
class AnnotatedData(ImageData):
    """Images with boxes and masks of objects in COCO's format. Images without objects are not trained on."""

    annotations: str = "data/annotations/train.json"
    """Annotations of the training images, in COCO's format. Each `file_name` is looked up in `root`."""
    test: str = "data/test"
    """Test images, in the same forms as `root`."""
    test_annotations: str = "data/annotations/test.json"
    """Annotations of the test images, in COCO's format, with the same categories.
    All images of the file are tested, also those without objects."""
    size: tuple[int, int] = (1024, 1024)
    """Height and width of a sample, pixels. A test image is resized to fit into this size, and padded."""

    def __post_init__(self):
        super().__post_init__()
        wide = self.size[0], 4 * self.size[1]
        if self.crop.cut(wide, self.size, [0.5] * self.crop.draws).offset != (0, 0):
            raise ValueError(
                f"data.crop: {type(self.crop).__name__} cuts samples from an image with a border of reflections, "
                "which boxes do not follow: use ScaleJitterCrop, RandomResizedCrop or CenterCrop"
            )


@dataclass(frozen=True)
class RCNN:
    """Torchvision's Mask R-CNN on a feature pyramid.

    Settings that are not listed have torchvision's defaults.
    """

    channels: int = 256
    """Channels of each map of the pyramid, and of the convolutions on the maps."""
    norm: Literal["layer", "none"] = "layer"
    """Norm after the convolutions of pyramid, box head and mask head: layer norm over channels, or none."""
    rpn_convs: int = 2
    """3x3 convolutions of the region proposal network."""
    box_convs: int = 4
    """3x3 convolutions before the box head's hidden layer; 0 = two hidden layers and no convolution."""
    box_width: int = 1024
    """Width of the box head's hidden layers."""
    mask_convs: int = 4
    """3x3 convolutions of the mask head."""
    anchor: float = 8.0
    """Side of the square anchor of a map, in strides of the map.
    The two other anchors have the same area; their height is half and twice their width."""
    proposals: int = 512
    """Proposals of each image on which box and mask heads are trained."""

    def __post_init__(self):
        check_types(self, "rcnn.")
        check_bounds(self, "rcnn.", "channels", "rpn_convs", "box_width", "mask_convs", "proposals", at_least=1)
        check_bounds(self, "rcnn.", "box_convs", at_least=0)
        check_bounds(self, "rcnn.", "anchor", above=0)


@dataclass(frozen=True, kw_only=True)
class Detect(Experiment):
    """A detection run: encoder and Mask R-CNN find objects and their masks."""

    data: AnnotatedData
    rcnn: RCNN = field(default_factory=RCNN)
