"""Object detection: the network, and its pyramids of maps."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from fastmim_kernels import mean_fill

from ..config.detect import RCNN
from ..parts import ImageSpec
from .encoders.base import EncoderModule
from .pyramid import PyramidLevels

RATIOS = (0.5, 1.0, 2.0)
"""Aspect ratios of the anchors."""
BOX_SIZE = 7
"""Side of the map of a proposal's features that the box head reads."""


class SimpleFeaturePyramid(nn.Module):
    """A pyramid from the one map of a plain ViT: a 1x1 and a 3x3 convolution per level, with layer norms.

    Source: ViTDet, arXiv:2203.16527, section 3; detectron2's `SimpleFeaturePyramid`.
    """

    def __init__(self, levels: PyramidLevels, channels: int):
        from timm.layers.norm import LayerNorm2d

        super().__init__()
        self.levels, self.out_channels = levels, channels
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, channels, 1, bias=False),
                LayerNorm2d(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                LayerNorm2d(channels),
            )
            for width in levels.widths
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Returns a (B, channels, h, w) map per level, and a fifth map of twice the last stride."""
        x = [conv(x) for conv, x in zip(self.convs, self.levels(maps), strict=True)]
        return [*x, x[-1][..., ::2, ::2]]


class FeaturePyramid(nn.Module):
    """Torchvision's feature pyramid network on the levels of an encoder with several maps."""

    def __init__(self, levels: PyramidLevels, channels: int, norms: bool, norm: type[nn.Module] | None):
        """Builds the network.

        Args:
            levels: the levels of the encoder's maps.
            channels: channels of each map of the result.
            norms: True = normalise each map over its channels first. A network with batch norm does not need this.
            norm: norm class of the pyramid's convolutions, or None.
        """
        from timm.layers.norm import LayerNorm2d
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        super().__init__()
        self.levels, self.out_channels = levels, channels
        self.norms = nn.ModuleList(LayerNorm2d(width) if norms else nn.Identity() for width in levels.widths)
        self.fpn = FeaturePyramidNetwork(list(levels.widths), channels, LastLevelMaxPool(), norm)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Returns a (B, channels, h, w) map per level, and a fifth map of twice the last stride."""
        normed = [norm(x) for norm, x in zip(self.norms, self.levels(maps), strict=True)]
        return list(self.fpn(numbered(normed)).values())


class Detector(nn.Module):
    """An encoder, a pyramid, and the heads of a Mask R-CNN: `detector(images, ids, targets) -> loss`.

    The encoder's last norm is removed: the maps of a pyramid do not pass the norm, and ViTDet's ViT has none.
    """

    mean: Tensor
    """(C,) mean of each channel, on the 0..1 scale."""
    std: Tensor
    """(C,) standard deviation of each channel, on the 0..1 scale."""

    def __init__(self, encoder: EncoderModule, rcnn: RCNN, classes: int, image: ImageSpec):
        """Builds the network.

        Args:
            encoder: the encoder, which loses its last norm.
            rcnn: settings of the heads.
            classes: number of classes of objects, without background.
            image: the images that the network reads.
        """
        from timm.layers.norm import LayerNorm2d
        from torchvision.models.detection import faster_rcnn, mask_rcnn
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.rpn import RPNHead

        super().__init__()
        self.encoder, channels = encoder, rcnn.channels
        own, norm = encoder.take_norm(), LayerNorm2d if rcnn.norm == "layer" else None
        levels = PyramidLevels(encoder.strides, encoder.widths, encoder.image_size)
        if len(encoder.strides) == 1:
            self.pyramid = SimpleFeaturePyramid(levels, channels)
        else:
            self.pyramid = FeaturePyramid(levels, channels, own is not None, norm)
        # Proposals also come from the fifth map, which has twice the stride of the last level.
        strides = (*levels.strides, 2 * levels.strides[-1])
        anchors = AnchorGenerator(tuple((rcnn.anchor * stride,) for stride in strides), (RATIOS,) * len(strides))
        box = box_head(rcnn, norm)
        # torchvision declares no types of a detector's submodules.
        whole: Any = mask_rcnn.MaskRCNN(
            self.pyramid,
            box_head=box,
            rpn_anchor_generator=anchors,
            rpn_head=RPNHead(channels, len(RATIOS), conv_depth=rcnn.rpn_convs),
            box_predictor=faster_rcnn.FastRCNNPredictor(rcnn.box_width, classes + 1),
            box_batch_size_per_image=rcnn.proposals,
            mask_head=mask_rcnn.MaskRCNNHeads(channels, [channels] * rcnn.mask_convs, 1, norm),
            mask_predictor=mask_rcnn.MaskRCNNPredictor(channels, channels, classes + 1),
        )
        self.rpn, self.heads = whole.rpn, whole.roi_heads
        heads = self.heads
        for part in (
            self.pyramid, self.rpn.head, heads.box_head, heads.box_predictor, heads.mask_head, heads.mask_predictor,
        ):  # fmt: skip
            part.register_forward_pre_hook(lambda module, inputs: to_dtype(inputs, next(module.parameters()).dtype))
            part.register_forward_hook(lambda module, inputs, outputs: to_dtype(outputs, torch.float32))
        for name, values in (("mean", image.mean), ("std", image.std)):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, images: Tensor, ids: Tensor, targets: list[dict[str, Any]]) -> Tensor:
        """Returns the sum of all losses: () fp32.

        Args:
            images: (B, H, W, C) uint8.
            ids: sample ids, which the network does not need.
            targets: objects of each image, on any device: "boxes" (N, 4) float32, x and y of two corners; "labels" (N,)
                int64 from 1 on; "masks" (N, H, W) uint8.
        """
        targets = [{name: values.to(images.device) for name, values in target.items()} for target in targets]
        losses = self.run(images, targets)[1]
        return sum(losses.values(), torch.zeros((), device=images.device))

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Detects the objects of (B, H, W, C) uint8 images, best first.

        Returns:
            For each image "boxes" (N, 4), "labels" (N,), "scores" (N,) and "masks" (N, 1, 28, 28) inside the boxes.
        """
        return self.run(images)[0]

    def run(
        self, images: Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Returns the detections (in evaluation mode) and the losses (in training mode)."""
        from torchvision.models.detection.image_list import ImageList

        weight = next(self.pyramid.parameters())
        pixels = mean_fill(images, None, self.mean.float(), self.std.float(), torch.float32).permute(0, 3, 1, 2)
        maps = numbered(self.pyramid(self.encoder.maps(pixels.to(weight.dtype))))
        # Padding counts as image, as in detectron2's fixed-size training: torchvision reads strides from these sizes.
        sizes = [(pixels.shape[2], pixels.shape[3])] * len(pixels)
        proposals, rpn_losses = self.rpn(ImageList(pixels, sizes), maps, targets)
        detections, head_losses = self.heads(maps, proposals, sizes, targets)
        return detections, rpn_losses | head_losses


def box_head(rcnn: RCNN, norm: type[nn.Module] | None) -> nn.Module:
    """Builds the head between the pooled features of a proposal and the box predictor.

    Args:
        rcnn: settings of the heads.
        norm: norm class of the convolutions, or None.
    """
    from torchvision.models.detection import faster_rcnn

    if rcnn.box_convs:
        size = (rcnn.channels, BOX_SIZE, BOX_SIZE)
        convs: Any = norm  # torchvision declares the norm's type as a function
        return faster_rcnn.FastRCNNConvFCHead(size, [rcnn.channels] * rcnn.box_convs, [rcnn.box_width], convs)
    return faster_rcnn.TwoMLPHead(rcnn.channels * BOX_SIZE**2, rcnn.box_width)


def numbered(maps: list[Tensor]) -> dict[str, Tensor]:
    """Returns the maps under the names "0", "1", …, as torchvision takes them."""
    return OrderedDict((str(i), x) for i, x in enumerate(maps))


def to_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Converts floating-point tensors in lists and tuples.

    Boxes and scores need float32 at every precision of the network.
    """
    if isinstance(value, list | tuple):
        return type(value)(to_dtype(v, dtype) for v in value)
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
