"""Semantic segmentation: the network, sliding windows, and the confusion matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastmim_kernels import mean_fill

from ..config.segment import IGNORED, UPerNet
from ..host.extras import require
from ..parts import ImageSpec
from .encoders.base import EncoderModule
from .encoders.batchnorm import replace_batch_norms
from .pyramid import LEVELS, PyramidLevels

UNREAD = (None, None)
"""Stand-ins for the levels of strides 1 and 2, which the library's UPerNet counts but never reads."""


class Segmenter(nn.Module):
    """An encoder, a pyramid, a UPerNet and two heads: `segmenter(images, ids, labels) -> loss`.

    The encoder's last norm is removed: the maps of a pyramid do not pass the norm, and the decoder has its own norms.
    """

    mean: Tensor
    """(C,) mean of each channel, on the 0..1 scale."""
    std: Tensor
    """(C,) standard deviation of each channel, on the 0..1 scale."""

    def __init__(self, encoder: EncoderModule, spec: UPerNet, classes: int, image: ImageSpec):
        """Builds the network.

        Args:
            encoder: the encoder, which loses its last norm.
            spec: settings of the decoder.
            classes: number of pixel classes.
            image: the images that the network reads.

        Raises:
            ValueError: a package is missing, or `spec.blocks` are not blocks of a plain ViT.
        """
        require("segmentation", "segmentation_models_pytorch.decoders.upernet.decoder")
        from segmentation_models_pytorch.base.initialization import initialize_decoder
        from segmentation_models_pytorch.base.modules import Conv2dReLU
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        super().__init__()
        check_blocks(encoder, spec.blocks)
        encoder.take_norm()
        self.encoder, self.blocks, self.aux_weight = encoder, spec.blocks, spec.aux_weight
        self.levels = PyramidLevels(encoder.strides, encoder.widths, encoder.image_size)
        widths: Any = (*UNREAD, *self.levels.widths)  # the library declares numbers, but takes None for unread levels
        self.decoder = UPerNetDecoder(widths, LEVELS + 1, spec.channels)
        self.head = classifier(spec.channels, classes, spec.dropout)
        initialize_decoder(self.decoder)
        if spec.aux_weight:
            hidden = Conv2dReLU(self.levels.widths[2], spec.aux_channels, 3, padding=1)
            initialize_decoder(hidden)
            self.aux = nn.Sequential(hidden, *classifier(spec.aux_channels, classes, spec.dropout))
        replace_batch_norms(self, spec.bn_batch)
        for name, values in (("mean", image.mean), ("std", image.std)):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, images: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
        """Returns the loss: () fp32.

        Args:
            images: (B, H, W, C) uint8.
            ids: sample ids, which the network does not need.
            labels: (B, H, W) uint8 class of each pixel, on any device.
        """
        labels, levels = labels.to(images.device, torch.int64), self.maps(images)
        loss = compare(self.decode(levels), labels)
        return loss + self.aux_weight * compare(self.aux(levels[2]), labels) if self.aux_weight else loss

    def predict(self, images: Tensor) -> Tensor:
        """Returns the (B, classes, H, W) float32 logits of (B, H, W, C) uint8 images."""
        return enlarge(self.decode(self.maps(images)), (images.shape[1], images.shape[2]))

    def decode(self, levels: list[Tensor]) -> Tensor:
        """Returns the (B, classes, h, w) logits at the resolution of the finest level."""
        return self.head(self.decoder([*UNREAD, *levels]))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Returns the map of each level for (B, H, W, C) uint8 images."""
        pixels = mean_fill(images, None, self.mean.float(), self.std.float(), torch.float32).permute(0, 3, 1, 2)
        pixels = pixels.to(next(self.head.parameters()).dtype)
        if self.blocks:
            return self.levels(self.encoder.block_maps(pixels, self.blocks))
        return self.levels(self.encoder.maps(pixels))


def classifier(width: int, classes: int, dropout: float) -> nn.Sequential:
    """Builds the last layers of MMSegmentation's heads: dropout and a 1x1 convolution."""
    layer = nn.Conv2d(width, classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Dropout2d(dropout), layer)


def check_blocks(encoder: EncoderModule, blocks: tuple[int, ...]) -> None:
    """Checks that an encoder is a plain ViT with these blocks, in order up to the last; () always passes.

    Raises:
        ValueError: the encoder has several maps, or has no such blocks.
    """
    if not blocks:
        return
    if len(encoder.strides) > 1:
        raise ValueError(f"decoder.blocks: {type(encoder).__name__} has its own maps: set decoder.blocks to ()")
    count = len(encoder.layers()) - 1
    if sorted(set(blocks)) != list(blocks) or blocks[-1] >= count:
        raise ValueError(f"decoder.blocks: expected 4 of {count} blocks, ascending from 0, got {blocks}")
    if blocks[-1] != count - 1:
        raise ValueError(
            f"decoder.blocks: expected the last of {count} blocks, {count - 1}, at the end, got {blocks}: blocks after "
            "the last one in use are never trained; set encoder.depth to use fewer"
        )


def enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes (B, K, h, w) logits to (B, K, *size) float32, bilinearly."""
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)


def compare(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the cross-entropy of (B, K, h, w) logits and (B, H, W) labels, averaged over all pixels.

    Ignored pixels count as 0, as in MMSegmentation. So the micro-batches of one update have the same weight.
    """
    enlarged = enlarge(logits, (labels.shape[1], labels.shape[2]))
    total = F.cross_entropy(enlarged, labels, ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


def starts(full: int, part: int, step: int) -> list[int]:
    """Returns the starts of sliding windows along one side of an image, as MMSegmentation places them.

    The last window ends with the image.

    Args:
        full: side of the image, pixels.
        part: side of a window, pixels.
        step: pixels between two windows.
    """
    last = max(full - part, 0)
    return [*range(0, last, step), last]


def slide(model: Segmenter, image: Tensor, size: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Segments an image by sliding windows: (K, h, w) float32 logits.

    The logits of a pixel are averaged over the windows that show the pixel. If the image is smaller than a window, the
    mean colour fills the window below and on the right, as in training.

    Args:
        model: the network.
        image: (h, w, C) uint8.
        size: height and width of a window, pixels.
        stride: pixels between two windows, vertically and horizontally.
    """
    h, w, _ = image.shape
    windows = [(top, left) for top in starts(h, size[0], stride[0]) for left in starts(w, size[1], stride[1])]
    mean = (255 * model.mean).round().clamp(0, 255).to(torch.uint8)
    padded = mean.expand(max(h, size[0]), max(w, size[1]), -1).clone()
    padded[:h, :w] = image
    seen = [padded[top : top + size[0], left : left + size[1]] for top, left in windows]
    logits = model.predict(torch.stack(seen))
    if len(windows) == 1:
        return logits[0, :, :h, :w]
    total = logits.new_zeros(logits.shape[1], *padded.shape[:2])
    count = logits.new_zeros(padded.shape[:2])
    for (top, left), part in zip(windows, logits, strict=True):
        total[:, top : top + size[0], left : left + size[1]] += part
        count[top : top + size[0], left : left + size[1]] += 1
    return (total / count)[:, :h, :w]


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts pixels by class: (K, K) int64, rows = the label's class, columns = the predicted class.

    Args:
        logits: (K, h, w), resized to the labels.
        labels: (H, W) uint8.
    """
    classes, labels = len(logits), labels.long()
    found = enlarge(logits[None], (labels.shape[0], labels.shape[1]))[0].argmax(dim=0)
    counted = labels != IGNORED
    pairs = labels[counted] * classes + found[counted]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def overlap(confusion: Tensor) -> tuple[list[float | None], float | None, float | None]:
    """Computes scores from a (K, K) confusion matrix.

    Returns:
        The intersection over union of each class, their mean, and the fraction of correct pixels. A class that is
        neither in the labels nor predicted has None and does not enter the mean. Without any pixel, all scores are
        None.
    """
    right, there, found = confusion.diag().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()
    unions = [a + b - c for a, b, c in zip(there, found, right, strict=True)]
    ious = [hit / union if union else None for hit, union in zip(right, unions, strict=True)]
    counted = [iou for iou in ious if iou is not None]
    if not counted:
        return ious, None, None
    return ious, sum(counted) / len(counted), sum(right) / sum(there)
