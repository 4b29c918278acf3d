"""Classification: mix, encode, pool, compare. Imports no part; may import timm, L1 and L0."""

from __future__ import annotations

import random
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastmim_kernels import mean_fill

from ..config.classify import Augment, Head
from ..parts import ImageSpec
from ..samples import sample_index


class Batch:
    """Changes of the images and labels of a whole micro-batch: erasing, then mixup or CutMix, by timm.

    timm draws from the generators of `random` and numpy. Both are seeded from torch's, which the engine has seeded with
    the step, so that nothing of them needs to be saved.
    """

    def __init__(self, augment: Augment, classes: int):
        from timm.data.mixup import Mixup
        from timm.data.random_erasing import RandomErasing

        self.mixes = augment.mixup > 0 or augment.cutmix > 0
        self.erase = RandomErasing(augment.erase, mode="pixel") if augment.erase else None
        self.mix = (
            Mixup(augment.mixup, augment.cutmix, label_smoothing=augment.smoothing, num_classes=classes)
            if self.mixes
            else None
        )

    def __call__(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) normalised, which may be overwritten, and (B,) int64; returns also (B, classes) targets if
        labels are mixed."""
        seed = int(torch.randint(2**32, (), device="cpu"))
        random.seed(seed)
        np.random.seed(seed)
        if self.erase:
            self.erase.device = pixels.device
            pixels = self.erase(pixels)
        return self.mix(pixels, labels) if self.mix else (pixels, labels)


class Pool(nn.Module):
    """(B, prefix + N, D) tokens to (B, D), normalised where the norm is behind the pooling."""

    def __init__(self, encoder: nn.Module, pool: Literal["mean", "cls"], norm: nn.Module):
        super().__init__()
        self.prefix, self.pool, self.norm = encoder.num_prefix_tokens, pool, norm

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens[:, 0] if self.pool == "cls" else tokens[:, self.prefix :].mean(dim=1))


def pooling(encoder: nn.Module, head: Head) -> Pool:
    """The pooling of a head, with the encoder's last norm where the head wants it.

    Raises:
        ValueError: there is no class token, or no norm to move.
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
        norm.eps = own.eps
    return Pool(encoder, head.pool, norm)


class Classifier(nn.Module):
    """Encoder, pooling and a linear layer: `classifier(images, ids) -> loss`.

    Args:
        labels: (N,) int64 class of each image of the manifest.
        batch: what is done to a micro-batch; None = nothing.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: Head,
        augment: Augment,
        labels: Tensor,
        classes: int,
        image: ImageSpec,
    ):
        from timm.loss import create_classification_loss

        super().__init__()
        self.encoder = encoder
        self.pool = pooling(encoder, head)
        self.fc = nn.Linear(encoder.embed_dim, classes)
        nn.init.normal_(self.fc.weight, std=head.init_std)
        nn.init.zeros_(self.fc.bias)
        self.batch = Batch(augment, classes)
        self.loss = create_classification_loss(
            augment.loss, smoothing=augment.smoothing, soft_targets=self.batch.mixes, bce_sum=augment.loss == "bce"
        )
        for name, values in (("labels", labels), ("mean", torch.tensor(image.mean)), ("std", torch.tensor(image.std))):
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        pixels, target = self.batch(self.pixels(images), self.labels[sample_index(ids)])
        return self.loss(self.logits(pixels).float(), target)

    def predict(self, images: Tensor) -> Tensor:
        """(B, classes) logits of (B, H, W, C) uint8 images."""
        return self.logits(self.pixels(images))

    def pixels(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32, normalised."""
        return mean_fill(images, None, self.mean.float(), self.std.float(), torch.float32).permute(0, 3, 1, 2)

    def logits(self, pixels: Tensor) -> Tensor:
        return self.fc(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """(B, D) pooled."""
        return self.pool(self.encoder.features(pixels.to(self.fc.weight.dtype)))


class LinearProbe(Classifier):
    """A classifier that trains its linear layer only, on features that a batch norm without parameters scales (MAE,
    main_linprobe.py)."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = nn.BatchNorm1d(self.fc.in_features, affine=False, eps=1e-6)
        self.encoder.requires_grad_(False)
        self.pool.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> LinearProbe:
        """Leaves the frozen encoder in evaluation mode: its batch norms keep their statistics, no path is dropped."""
        super().train(mode)
        self.encoder.eval()
        return self

    def logits(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.features(pixels)
        return self.fc(self.norm(features.float()).to(self.fc.weight.dtype))


@torch.no_grad()
def recalibrate(encoder: nn.Module, batches) -> int:
    """Gives batch norms the statistics of these (B, C, H, W) normalised images, each batch counting the same.

    Returns: how many batch norms there are; without any, no image is looked at.
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
    """Of (B, classes): how many labels are the first, and among the first five, and the sum of the cross-entropies.

    Returns: two () int64 and a () float64.
    """
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    loss = F.cross_entropy(logits.double(), labels, reduction="sum")
    return ranked[:, 0].sum(), ranked.any(dim=1).sum(), loss
