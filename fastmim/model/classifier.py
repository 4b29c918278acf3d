"""Image classification: the network, its pooling, and the augmentation of batches."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastmim_kernels import mean_fill

from ..config.classify import Augment, Head
from ..parts import ImageSpec
from ..samples import sample_index
from .encoders.base import EncoderModule


class BatchAugment:
    """timm's augmentation of a micro-batch and its labels: random erasing, then mixup or CutMix.

    timm draws from the generators of `random` and numpy. Both are seeded from torch's generator, which the engine seeds
    with the step. So no state of these generators needs to be saved.
    """

    def __init__(self, augment: Augment, classes: int):
        from timm.data.mixup import Mixup
        from timm.data.random_erasing import RandomErasing

        self.mixes = augment.mixup > 0 or augment.cutmix > 0
        self.erase: Any = None
        self.mix: Any = None
        if augment.erase:
            self.erase = RandomErasing(augment.erase, mode="pixel")
        if self.mixes:
            self.mix = Mixup(augment.mixup, augment.cutmix, label_smoothing=augment.smoothing, num_classes=classes)

    def __call__(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augments a micro-batch.

        Args:
            pixels: (B, C, H, W) normalised floats; may be overwritten.
            labels: (B,) int64.

        Returns:
            The pixels, and (B, classes) targets if labels are mixed, otherwise the labels.
        """
        seed = int(torch.randint(2**32, (), device="cpu"))
        random.seed(seed)
        np.random.seed(seed)
        if self.erase:
            self.erase.device = pixels.device
            pixels = self.erase(pixels)
        return self.mix(pixels, labels) if self.mix else (pixels, labels)


class Pool(nn.Module):
    """Pools (B, prefix + N, D) tokens to (B, D), and applies a norm after the pooling."""

    def __init__(self, encoder: EncoderModule, pool: Literal["mean", "cls"], norm: nn.Module):
        super().__init__()
        self.prefix, self.pool, self.norm = encoder.num_prefix_tokens, pool, norm

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens[:, 0] if self.pool == "cls" else tokens[:, self.prefix :].mean(dim=1))


def pooling(encoder: EncoderModule, head: Head) -> Pool:
    """Builds the pooling of a head; with `head.norm=after`, moves the encoder's last norm there.

    Raises:
        ValueError: the encoder has no class token, or no norm to move.
    """
    if head.pool == "cls" and not encoder.num_prefix_tokens:
        raise ValueError(f"head.pool=cls: {type(encoder).__name__} has no class token; use mean")
    if head.norm == "before":
        return Pool(encoder, head.pool, nn.Identity())
    own, norm = encoder.take_norm(), nn.LayerNorm(encoder.embed_dim, eps=1e-6)
    if head.norm == "after":
        if own is None:
            raise ValueError(f"head.norm=after: {type(encoder).__name__} has no last norm; use before")
        norm.load_state_dict(own.state_dict())
        norm.eps = float(getattr(own, "eps", norm.eps))
    return Pool(encoder, head.pool, norm)


class Classifier(nn.Module):
    """An encoder, a pooling and a linear layer: `classifier(images, ids) -> loss`."""

    labels: Tensor
    """(N,) int64 class of each image of the manifest."""
    mean: Tensor
    """(C,) mean of each channel, on the 0..1 scale."""
    std: Tensor
    """(C,) standard deviation of each channel, on the 0..1 scale."""

    def __init__(
        self, encoder: EncoderModule, head: Head, augment: Augment, labels: Tensor, classes: int, image: ImageSpec
    ):
        import timm.loss

        super().__init__()
        self.encoder = encoder
        self.pool = pooling(encoder, head)
        self.fc = nn.Linear(encoder.embed_dim, classes)
        nn.init.normal_(self.fc.weight, std=head.init_std)
        nn.init.zeros_(self.fc.bias)
        self.batch = BatchAugment(augment, classes)
        library: Any = timm.loss  # declares no types
        self.loss = library.create_classification_loss(
            augment.loss, smoothing=augment.smoothing, soft_targets=self.batch.mixes, bce_sum=augment.loss == "bce"
        )
        for name, values in (("labels", labels), ("mean", torch.tensor(image.mean)), ("std", torch.tensor(image.std))):
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """Returns the loss of (B, H, W, C) uint8 images with (B,) int64 sample ids."""
        pixels, target = self.batch(self.pixels(images), self.labels[sample_index(ids)])
        return self.loss(self.logits(pixels).float(), target)

    def predict(self, images: Tensor) -> Tensor:
        """Returns the (B, classes) logits of (B, H, W, C) uint8 images."""
        return self.logits(self.pixels(images))

    def pixels(self, images: Tensor) -> Tensor:
        """Normalises (B, H, W, C) uint8 images: (B, C, H, W) float32."""
        return mean_fill(images, None, self.mean.float(), self.std.float(), torch.float32).permute(0, 3, 1, 2)

    def logits(self, pixels: Tensor) -> Tensor:
        """Returns the (B, classes) logits of normalised (B, C, H, W) images."""
        return self.fc(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """Returns the pooled (B, D) features of normalised (B, C, H, W) images."""
        return self.pool(self.encoder.features(pixels.to(self.fc.weight.dtype)))


class LinearProbe(Classifier):
    """A classifier that trains its linear layer only (MAE, main_linprobe.py).

    A batch norm without parameters scales the features before the linear layer.
    """

    def __init__(
        self, encoder: EncoderModule, head: Head, augment: Augment, labels: Tensor, classes: int, image: ImageSpec
    ):
        super().__init__(encoder, head, augment, labels, classes, image)
        self.norm = nn.BatchNorm1d(self.fc.in_features, affine=False, eps=1e-6)
        self.encoder.requires_grad_(False)
        self.pool.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> LinearProbe:
        """Sets the training mode, but keeps the frozen encoder in evaluation mode.

        So batch norms keep their statistics and no path is dropped.
        """
        super().train(mode)
        self.encoder.eval()
        return self

    def logits(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.features(pixels)
        return self.fc(self.norm(features.float()).to(self.fc.weight.dtype))


@torch.no_grad()
def recalibrate(encoder: EncoderModule, batches: Iterable[Tensor]) -> int:
    """Recomputes the statistics of batch norms from `batches`, with the same weight for every batch.

    Args:
        encoder: the encoder, which is put into evaluation mode.
        batches: normalised (B, C, H, W) images; not read if there is no batch norm.

    Returns:
        The number of batch norms.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    encoder.eval()
    for norm in norms:
        norm.train()
    for i, pixels in enumerate(batches if norms else ()):
        for norm in norms:
            norm.momentum = 1 / (i + 1)
        encoder.features(pixels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.eval()
    return len(norms)


def hits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Counts correct classifications.

    Args:
        logits: (B, classes).
        labels: (B,) int64.

    Returns:
        The number of labels that rank first (() int64), the number among the first five (() int64), and the sum of the
        cross-entropies (() float64).
    """
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    loss = F.cross_entropy(logits.double(), labels, reduction="sum")
    return ranked[:, 0].sum(), ranked.any(dim=1).sum(), loss
