"""Named inputs of composite_residual, for its tests and its benchmark.

The benchmark times A2MIM's whole loss: composite_residual, then the focal frequency loss of its residual.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from .._element_loss import ELEMENT_LOSSES
from .._targets import Targets
from ..focal_frequency import focal_frequency_loss
from . import composite_residual, reference


@dataclass(frozen=True)
class Case:
    batch: int
    grid: tuple[int, int]
    patch: int
    num_keep: int
    channels: int = 3
    images: torch.dtype = torch.uint8
    loss: Literal["l1", "l2", "focal_l1"] = "l1"
    gamma: float = 1.0
    visible: Literal["mixed", "target", "prediction", "mean"] = "mixed"
    visible_weight: float = 0.0
    average: int = 1
    strided: bool = False
    """pred, images and ids are views with gaps."""


# The published configurations: half spectra, averaged over images (ViT, ResNet-50) or image by image (ResNet-101).
_VIT = Case(batch=64, grid=(14, 14), patch=16, num_keep=76, average=64)
_R50 = Case(batch=64, grid=(7, 7), patch=32, num_keep=19, loss="focal_l1", visible_weight=1e-3, average=64)
_R101 = replace(_R50, average=1)

BENCH_DTYPES = ("fp32", "bf16")
BENCH = {
    "a2mim_vit_b/16": _VIT,
    "a2mim_resnet50": _R50,
    "a2mim_resnet101": _R101,
    "a2mim_vit_b/16 batch 8": replace(_VIT, batch=8, average=8),
}

_SMALL = Case(batch=4, grid=(3, 2), patch=4, num_keep=2)
CASES = {
    "vit": replace(_VIT, batch=2, grid=(2, 3), num_keep=2, average=2),
    "resnet50": replace(_R50, batch=3, grid=(2, 2), num_keep=1, average=3),
    "resnet101": replace(_R101, batch=2, grid=(1, 3), num_keep=1),
    "l2_groups": replace(_SMALL, loss="l2", average=2),
    "float_images": replace(_SMALL, images=torch.float32, visible_weight=0.25),
    "bf16_images": replace(_SMALL, images=torch.bfloat16, visible="prediction"),
    "fp16_images": replace(_SMALL, images=torch.float16, visible="target", average=4),
    "mean": replace(_SMALL, visible="mean", visible_weight=0.5, average=2),
    "mean_float": replace(_SMALL, visible="mean", images=torch.float32),
    "focal_power_2": replace(_SMALL, loss="focal_l1", gamma=2.0),
    "focal_power_1.5": replace(_SMALL, loss="focal_l1", gamma=1.5, average=2),
    "many_images": replace(_SMALL, batch=70, average=70, patch=2),
    "primes": Case(3, (5, 7), 11, 13, channels=1, loss="focal_l1", visible_weight=0.3),
    "five_channels": Case(6, (4, 1), 5, 1, channels=5, visible="mean", average=3),
    "one_value": Case(1, (1, 1), 1, 0, channels=1, loss="l2"),
    "strided": replace(_SMALL, strided=True, average=2),
    "nothing_visible": replace(_SMALL, num_keep=0, loss="focal_l1"),
    "nothing_hidden": replace(_SMALL, num_keep=6),
    "no_images": replace(_SMALL, batch=0),
}

_VIT_SMALL = Case(batch=32, grid=(1, 2), patch=16, num_keep=1, average=32)
_R50_SMALL = replace(_VIT_SMALL, patch=32, loss="focal_l1")
_R101_SMALL = replace(_R50_SMALL, batch=2, average=1)
VARIANTS = {
    "vit_b/16 bf16 l1": (_VIT_SMALL, torch.bfloat16),
    "vit_b/16 fp32 l2 mean": (replace(_VIT_SMALL, loss="l2", visible="mean"), torch.float32),
    "resnet50 bf16 focal l1": (_R50_SMALL, torch.bfloat16),
    "resnet101 bf16 focal l1": (_R101_SMALL, torch.bfloat16),
    "resnet101 fp16 focal l1, power": (replace(_R101_SMALL, gamma=2.0), torch.float16),
}
PER_IMAGE = (0, 1, 2)
TARGETS = (
    Targets(
        "Focal frequency, with A2MIM's loss",
        cpu={"official": 4, "memory": 0.25},
        cuda={"official": 10, "compile": 6},
    ),
)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.composite_residual`, equal on every device.

    dtype: type of `pred`.
    """
    generator = torch.Generator().manual_seed(seed)
    (rows, columns), p, c, gap = case.grid, case.patch, case.channels, 1 + case.strided
    images = torch.randn(case.batch, rows * p, columns * p * gap, c, generator=generator)
    images = (images * 60 + 120).clamp(0, 255).to(torch.uint8) if case.images == torch.uint8 else images.to(case.images)
    pred = torch.randn(case.batch, rows * columns, gap * p * p * c, generator=generator)
    ids = torch.rand(case.batch, rows * columns, generator=generator).argsort(1)
    ids = ids.repeat_interleave(gap, dim=1)[:, ::gap]
    mean, std = 0.4 + 0.05 * torch.arange(c), 0.2 + 0.01 * torch.arange(c)
    fill = torch.randn(case.batch, c, generator=generator).to(device) if case.visible == "mean" else None
    share = {"mixed": 0.5, "prediction": 1.0}.get(case.visible, 0.0)
    tensors = (pred.to(device, dtype)[..., ::gap], images[:, :, ::gap].to(device), ids.to(device))
    numbers = (
        ELEMENT_LOSSES.index(case.loss),
        0.2,
        case.gamma,
        case.visible_weight + (1 - case.visible_weight) * share,
    )
    constants = (mean.to(device), std.to(device), fill)
    return *tensors, case.num_keep, p, *constants, *numbers, case.visible_weight, case.average


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that loss and gradient cannot do without.

    All pixels and predictions are read. Hidden pixels and predictions are read a second time, once the mean residual is
    known. The gradient is written. Without averaging, the residuals and their gradient are also written and read.
    """
    patches, values = case.grid[0] * case.grid[1], case.patch**2 * case.channels
    read = (2 * patches - case.num_keep) * (case.images.itemsize + dtype.itemsize)
    residuals = 4 * 4 * patches // case.average
    return case.batch * values * (read + patches * dtype.itemsize + residuals)


def flops(case: Case) -> int:
    """Estimates the operations of the whole loss with its gradient.

    Each pixel value takes 13 operations, or 33 in focal L1. Each plane of residuals takes a real transform and its
    inverse with 2.5 n log2 n operations each, and 12 operations per complex number of the loss.
    """
    height, width = (n * case.patch for n in case.grid)
    planes, pixels = case.batch // case.average * case.channels, height * width
    spectra = planes * (5 * pixels * math.log2(pixels) + 12 * height * (width // 2 + 1))
    return int(case.batch * pixels * case.channels * (33 if case.loss == "focal_l1" else 13) + spectra)


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the predictions, and versions of A2MIM's loss as functions of the predictions.

    official: openmixup's code, on images.
    """
    args = inputs(case, dtype, device)
    pred, images, ids, num_keep, p, mean, std = args[:7]
    b, h, w, c = images.shape

    def ours(pred):
        value, residual = composite_residual(
            pred,
            images,
            ids,
            num_keep,
            p,
            mean,
            std,
            loss=case.loss,
            visible=case.visible,
            visible_weight=case.visible_weight,
            average=case.average,
        )
        if case.average == 1:
            return value + 0.1 * focal_frequency_loss(residual, alpha=0.2, gamma=1.0)
        return value + 0.1 * focal_frequency_loss(residual, alpha=1.0, log=True, peak="all")

    def plain(pred):
        value, residual = reference.composite_residual(pred, *args[1:])
        spectrum = torch.fft.rfft2(residual, dim=(1, 2), norm="ortho").abs()
        columns = torch.full((w // 2 + 1, 1), 2.0, device=device)
        columns[:: max(w // 2, 1)] = 1  # the width is even
        if case.average == 1:
            return value + 0.1 * (columns * spectrum * (0.1 * spectrum).tanh()).sum() / residual.numel()
        weight = spectrum.detach().log1p()
        return value + 0.1 * (columns * weight / weight.amax() * spectrum.square()).sum() / residual.numel()

    def official(pred):
        rows, columns = case.grid
        patches = pred.gather(1, ids.argsort(1)[..., None].expand_as(pred))
        pred = patches.view(b, rows, columns, p, p, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        d = (pred - target).abs()
        each = d * (2 * torch.sigmoid(0.2 * d) - 1) if case.loss == "focal_l1" else d
        value = (each * hidden).sum() / (hidden.sum() + 1e-5) / c
        live = hidden + (1 - hidden) * case.visible_weight
        seen = 0.5 * pred.clone().detach() + 0.5 * target.clone()
        composed = pred * live + seen * (1 - live)
        first, second = (torch.fft.fft2(x.float(), norm="ortho") for x in (composed, target))
        if case.average == 1:
            d = (first - second).abs()
            return value + 0.1 * (d * (2 * torch.sigmoid(0.2 * d) - 1)).mean()
        first, second = (torch.stack([x.real, x.imag], -1).mean(0, keepdim=True) for x in (first, second))
        power = ((first - second) ** 2).sum(-1)
        weight = torch.log(power.detach().sqrt() + 1)
        weight = weight / weight.max()
        weight[weight.isnan()] = 0
        weight = weight.clamp(0, 1)
        assert weight.min().item() >= 0 and weight.max().item() <= 1
        return value + 0.1 * (weight * power).mean()

    target = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    mask = torch.ones_like(ids).scatter_(1, ids[:, :num_keep], 0).view(b, 1, *case.grid)
    hidden = mask.repeat_interleave(p, 2).repeat_interleave(p, 3)
    return pred.requires_grad_(), {"ours": ours, "reference": plain, "official": official}
