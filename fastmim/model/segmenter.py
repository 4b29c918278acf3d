"""Segmentation: encode, make a pyramid of the maps, label each pixel, compare.

Imports encoders.batchnorm and pyramid, no other part; may import segmentation_models_pytorch, L1 and L0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastmim_kernels import mean_fill

from ..config.segment import IGNORED, UPerNet
from ..host.extras import require
from ..parts import ImageSpec
from .encoders.batchnorm import replace_batch_norms
from .pyramid import LEVELS, Levels

UNREAD = (None, None)
"""The library counts levels from strides 1 and 2, which its UPerNet does not read."""


class Segmenter(nn.Module):
    """Encoder, pyramid, UPerNet and two heads: `segmenter(images, ids, labels) -> loss`.

    The encoder's last norm goes: a pyramid's maps do not pass it, and the decoder normalises what it reads.
    """

    def __init__(self, encoder: nn.Module, spec: UPerNet, classes: int, image: ImageSpec):
        """
        Raises:
            ValueError: a package is missing; or `spec.blocks` are not those of a plain ViT.
        """
        require("segmentation", "segmentation_models_pytorch.decoders.upernet.decoder")
        from segmentation_models_pytorch.base.initialization import initialize_decoder
        from segmentation_models_pytorch.base.modules import Conv2dReLU
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        super().__init__()
        check_blocks(encoder, spec.blocks)
        encoder.take_norm()
        self.encoder, self.blocks, self.aux_weight = encoder, spec.blocks, spec.aux_weight
        self.levels = Levels(encoder.strides, encoder.widths, tuple(n * encoder.patch_size for n in encoder.grid))
        self.decoder = UPerNetDecoder((*UNREAD, *self.levels.widths), LEVELS + 1, spec.channels)
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
        """
        Args:
            images: (B, H, W, C) uint8.
            labels: (B, H, W) uint8, on any device.
        """
        labels, levels = labels.to(images.device, torch.int64), self.maps(images)
        loss = compare(self.decode(levels), labels)
        return loss + self.aux_weight * compare(self.aux(levels[2]), labels) if self.aux_weight else loss

    def predict(self, images: Tensor) -> Tensor:
        """(B, classes, H, W) float32 logits of (B, H, W, C) uint8 images."""
        return enlarge(self.decode(self.maps(images)), images.shape[1:3])

    def decode(self, levels: list[Tensor]) -> Tensor:
        """(B, classes, h, w) of the finest level."""
        return self.head(self.decoder([*UNREAD, *levels]))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The pyramid."""
        pixels = mean_fill(images, None, self.mean.float(), self.std.float(), torch.float32).permute(0, 3, 1, 2)
        pixels = pixels.to(self.head[1].weight.dtype)
        return self.levels(self.encoder.maps(pixels, self.blocks) if self.blocks else self.encoder.maps(pixels))


def classifier(width: int, classes: int, dropout: float) -> nn.Sequential:
    """The last layer of MMSegmentation's heads."""
    layer = nn.Conv2d(width, classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Dropout2d(dropout), layer)


def check_blocks(encoder: nn.Module, blocks: tuple[int, ...]) -> None:
    """
    Raises:
        ValueError: the encoder is no plain ViT, or has no such blocks, ascending to the last.
    """
    if not blocks:
        return
    if len(encoder.strides) > 1:
        raise ValueError(f"decoder.blocks: {type(encoder).__name__} has maps of its own: set it to ()")
    count = len(encoder.layers()) - 1
    if sorted(set(blocks)) != list(blocks) or blocks[-1] >= count:
        raise ValueError(f"decoder.blocks: expected 4 of {count} blocks, ascending from 0, got {blocks}")
    if blocks[-1] != count - 1:
        raise ValueError(
            f"decoder.blocks: expected the last of {count} blocks, {count - 1}, at the end, got {blocks}: those behind "
            "have nothing to learn from; set encoder.depth to use fewer"
        )


def enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, h, w) to (B, K, *size) float32."""
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)


def compare(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over all pixels of the cross-entropy of (B, K, h, w) logits and (B, H, W) labels.

    Ignored pixels are 0 and count, as MMSegmentation has it: so micro-batches of one update weigh the same.
    """
    total = F.cross_entropy(enlarge(logits, labels.shape[1:]), labels, ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


def starts(full: int, part: int, step: int) -> list[int]:
    """Starts of windows of `part` every `step` pixels along `full`; the last ends with the image (MMSegmentation)."""
    last = max(full - part, 0)
    return [*range(0, last, step), last]


def slide(model: Segmenter, image: Tensor, size: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """(K, h, w) float32 logits of an (h, w, C) uint8 image, averaged over the windows of `size` that show a pixel.

    Where the image is smaller than a window, the mean colour is below and on the right, as in training.
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
    """(K, K) int64: how many pixels of class i, of (H, W) uint8 labels, are taken for class j by (K, h, w) logits."""
    classes, labels = len(logits), labels.long()
    found = enlarge(logits[None], labels.shape)[0].argmax(dim=0)
    counted = labels != IGNORED
    pairs = labels[counted] * classes + found[counted]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def overlap(confusion: Tensor) -> tuple[list[float | None], float | None, float | None]:
    """Of a (K, K) confusion matrix: each class's intersection over union, their mean, and the part of pixels right.

    A class that is neither there nor found has None, and is not in the mean; without any pixel all are None.
    """
    right, there, found = confusion.diag().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()
    unions = [a + b - c for a, b, c in zip(there, found, right, strict=True)]
    ious = [hit / union if union else None for hit, union in zip(right, unions, strict=True)]
    counted = [iou for iou in ious if iou is not None]
    if not counted:
        return ious, None, None
    return ious, sum(counted) / len(counted), sum(right) / sum(there)
