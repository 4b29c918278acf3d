"""Detection: encode, make a pyramid of the maps, propose, compare.

Imports pyramid, no other part; may import torchvision, timm, L1 and L0.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from fastmim_kernels import mean_fill

from ..config.detect import RCNN
from ..parts import ImageSpec
from .pyramid import Levels

RATIOS = (0.5, 1.0, 2.0)


class SimpleFeaturePyramid(nn.Module):
    """The levels made of a plain ViT's one map, with a 1x1 and a 3x3 convolution and layer norms behind each.

    ViTDet, arXiv:2203.16527, section 3, as in detectron2's `SimpleFeaturePyramid`.
    """

    def __init__(self, levels: Levels, channels: int):
        from timm.layers import LayerNorm2d

        super().__init__()
        self.levels = levels
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
        x = [conv(x) for conv, x in zip(self.convs, self.levels(maps), strict=True)]
        return [*x, x[-1][..., ::2, ::2]]


class FeaturePyramid(nn.Module):
    """Torchvision's feature pyramid network on the levels of an encoder that has several maps.

    norms: whether each map is first normalised over its channels; convolutional networks with batch norm are without.
    """

    def __init__(self, levels: Levels, channels: int, norms: bool, norm: type[nn.Module] | None):
        from timm.layers import LayerNorm2d
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        super().__init__()
        self.levels = levels
        self.norms = nn.ModuleList(LayerNorm2d(width) if norms else nn.Identity() for width in levels.widths)
        self.fpn = FeaturePyramidNetwork(list(levels.widths), channels, LastLevelMaxPool(), norm)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        normed = [norm(x) for norm, x in zip(self.norms, self.levels(maps), strict=True)]
        return list(self.fpn(named(normed)).values())


class Detector(nn.Module):
    """Encoder, pyramid, proposals, box and mask heads: `detector(images, ids, targets) -> loss`.

    The encoder's last norm goes: maps of a pyramid do not pass it, and ViTDet's ViT has none.
    """

    def __init__(self, encoder: nn.Module, rcnn: RCNN, classes: int, image: ImageSpec):
        """classes: of objects, without background."""
        from timm.layers import LayerNorm2d
        from torchvision.models.detection import faster_rcnn, mask_rcnn
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.rpn import RPNHead

        super().__init__()
        self.encoder, channels = encoder, rcnn.channels
        own, norm = encoder.take_norm(), LayerNorm2d if rcnn.norm == "layer" else None
        levels = Levels(encoder.strides, encoder.widths, tuple(n * encoder.patch_size for n in encoder.grid))
        self.pyramid = (
            SimpleFeaturePyramid(levels, channels)
            if len(encoder.strides) == 1
            else FeaturePyramid(levels, channels, own is not None, norm)
        )
        self.pyramid.out_channels = channels
        # Proposals are also made on a fifth map, of twice the stride of the last.
        strides = (*levels.strides, 2 * levels.strides[-1])
        anchors = AnchorGenerator(tuple((rcnn.anchor * stride,) for stride in strides), (RATIOS,) * len(strides))
        box_size = 7
        if rcnn.box_convs:
            box_head = faster_rcnn.FastRCNNConvFCHead(
                (channels, box_size, box_size), [channels] * rcnn.box_convs, [rcnn.box_width], norm
            )
        else:
            box_head = faster_rcnn.TwoMLPHead(channels * box_size**2, rcnn.box_width)
        whole = mask_rcnn.MaskRCNN(
            self.pyramid,
            rpn_anchor_generator=anchors,
            rpn_head=RPNHead(channels, len(RATIOS), conv_depth=rcnn.rpn_convs),
            box_head=box_head,
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
            part.register_forward_pre_hook(lambda module, inputs: cast(inputs, next(module.parameters()).dtype))
            part.register_forward_hook(lambda module, inputs, outputs: cast(outputs, torch.float32))
        for name, values in (("mean", image.mean), ("std", image.std)):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, images: Tensor, ids: Tensor, targets: list[dict[str, Any]]) -> Tensor:
        """
        Args:
            images: (B, H, W, C) uint8.
            targets: of each image "boxes" (N, 4) float32, x and y of two corners, "labels" (N,) int64 from 1 on, and
                "masks" (N, H, W) uint8.
        """
        targets = [{name: values.to(images.device) for name, values in target.items()} for target in targets]
        return sum(self.run(images, targets)[1].values())

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Of each image, best first: "boxes" (N, 4), "labels" (N,), "scores" (N,), "masks" (N, 1, 28, 28) in a box."""
        return self.run(images)[0]

    def run(
        self, images: Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections in evaluation, losses in training."""
        from torchvision.models.detection.image_list import ImageList

        weight = next(self.pyramid.parameters())
        pixels = mean_fill(images, None, self.mean.float(), self.std.float(), torch.float32).permute(0, 3, 1, 2)
        maps = named(self.pyramid(self.encoder.maps(pixels.to(weight.dtype))))
        # Padding counts as image, as in detectron2's fixed-size training: torchvision reads strides from these sizes.
        sizes = [tuple(pixels.shape[2:])] * len(pixels)
        proposals, proposing = self.rpn(ImageList(pixels, sizes), maps, targets)
        detections, deciding = self.heads(maps, proposals, sizes, targets)
        return detections, proposing | deciding


def named(maps: list[Tensor]) -> dict[str, Tensor]:
    """As torchvision wants them."""
    return OrderedDict((str(i), x) for i, x in enumerate(maps))


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors in lists and tuples as `dtype`: places and scores need float32, whatever computes them."""
    if isinstance(value, list | tuple):
        return type(value)(cast(v, dtype) for v in value)
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
