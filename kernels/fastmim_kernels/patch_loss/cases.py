"""Named inputs of patch_loss, for its tests (few rows) and its benchmark (real sizes)."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn.functional import l1_loss, pixel_shuffle

from .._element_loss import ELEMENT_LOSSES
from .._targets import Targets
from . import patch_loss, reference


@dataclass(frozen=True)
class Case:
    batch: int
    grid: tuple[int, int]
    patch: int
    rows: int
    channels: int = 3
    images: torch.dtype = torch.uint8
    norm_pix: bool = True
    loss: Literal["l1", "l2", "focal_l1"] = "l2"
    gamma: float = 1.0
    layout: Literal["row_column_channel", "channel_row_column"] = "row_column_channel"
    pred: str = "rows"
    """Patches with a prediction, and the memory layout of the predictions.

    "rows": the patches of `rows`, as (N, P). "tokens": every patch, as (B, L, P). "map": every patch, as a view of a
    (B, P, rows, columns) map.
    """
    memory: str = "contiguous"
    """Memory: "strided" = pred and images are views with gaps, "constant" = each patch holds one value."""


_MAE_B = Case(batch=64, grid=(14, 14), patch=16, rows=64 * 147)
_MAE_H = Case(batch=64, grid=(16, 16), patch=14, rows=64 * 192)
_SIMMIM = Case(batch=64, grid=(6, 6), patch=32, rows=64 * 22, norm_pix=False, loss="l1")
_SIMMIM_MAP = replace(_SIMMIM, layout="channel_row_column", pred="map")
_A2MIM = Case(batch=64, grid=(7, 7), patch=32, rows=64 * 30, norm_pix=False, loss="focal_l1")

BENCH_DTYPES = ("fp32", "bf16")
BENCH = {
    "mae_vit_b/16 uint8": _MAE_B,
    "mae_vit_b/16 float": replace(_MAE_B, images=torch.float32),
    "mae_vit_b/16 uint8 batch 8": replace(_MAE_B, batch=8, rows=8 * 147),
    "mae_vit_h/14 uint8": _MAE_H,
    "simmim_swin_192 uint8": _SIMMIM,
    "simmim_swin_192 uint8 channels first": replace(_SIMMIM, layout="channel_row_column"),
    "simmim_swin_192 uint8 map": _SIMMIM_MAP,
    "a2mim_resnet50 uint8": _A2MIM,
}

CASES = {
    "mae_vit_b": replace(_MAE_B, batch=2, rows=7),
    "mae_vit_h": replace(_MAE_H, batch=1, rows=5),
    "mae_vit_b_bf16_images": replace(_MAE_B, batch=1, rows=3, images=torch.bfloat16),
    "simmim_swin": replace(_SIMMIM, batch=1, rows=3),
    "simmim_float": replace(_SIMMIM, batch=1, grid=(2, 3), rows=2, images=torch.float32),
    "raw_l2_fp16_images": Case(2, (2, 2), 4, 6, images=torch.float16, norm_pix=False),
    "norm_l1": Case(2, (3, 2), 4, 9, loss="l1"),
    "focal": replace(_A2MIM, batch=1, grid=(2, 2), rows=3),
    "focal_norm_power_2.5": Case(2, (3, 2), 4, 9, loss="focal_l1", gamma=2.5),
    "channels_first": Case(2, (3, 2), 4, 9, layout="channel_row_column"),
    "channels_first_primes": Case(3, (5, 7), 11, 13, channels=2, layout="channel_row_column", images=torch.float32),
    "map": replace(_SIMMIM_MAP, batch=2, grid=(2, 3), rows=7),
    "map_focal": Case(2, (2, 3), 4, 7, loss="focal_l1", layout="channel_row_column", pred="map"),
    "map_strided": Case(2, (2, 3), 4, 7, pred="map", memory="strided"),
    "tokens": Case(2, (3, 3), 5, 7, pred="tokens"),
    "tokens_none": Case(2, (3, 3), 4, 0, pred="tokens"),
    "tokens_all_strided": Case(3, (1, 2), 4, 6, loss="l1", pred="tokens", memory="strided"),
    "one_value": Case(1, (1, 1), 1, 1, channels=1, norm_pix=False),
    "one_row": Case(1, (1, 1), 2, 1, channels=1, images=torch.float32),
    "primes": Case(3, (5, 7), 11, 13, channels=1),
    "rectangle": Case(2, (2, 9), 3, 17, channels=4),
    "five_channels": Case(1, (4, 1), 5, 4, channels=5, images=torch.float32),
    "strided": Case(2, (3, 3), 4, 8, memory="strided"),
    "strided_float": Case(2, (3, 3), 4, 8, images=torch.float32, memory="strided"),
    "constant": Case(2, (2, 2), 16, 5, images=torch.float32, memory="constant"),
    "constant_uint8": Case(2, (2, 2), 8, 5, channels=1, memory="constant"),
    "empty": Case(2, (2, 2), 4, 0),
}

_VIT_SMALL = Case(batch=2, grid=(2, 3), patch=16, rows=7)
_SWIN_SMALL = replace(_VIT_SMALL, patch=32, norm_pix=False, loss="l1")
_FIRST_SMALL = replace(_SWIN_SMALL, layout="channel_row_column")
VARIANTS = {
    "vit_b/16 uint8 fp32 norm l2": (_VIT_SMALL, torch.float32),
    "vit_b/16 uint8 bf16 norm l2": (_VIT_SMALL, torch.bfloat16),
    "vit_b/16 bf16 bf16 norm l2": (replace(_VIT_SMALL, images=torch.bfloat16), torch.bfloat16),
    "vit_b/16 uint8 bf16 l1": (replace(_SWIN_SMALL, patch=16), torch.bfloat16),
    "vit_h/14 uint8 fp16 norm l2": (replace(_VIT_SMALL, patch=14), torch.float16),
    "swin/32 fp32 fp32 l1": (replace(_SWIN_SMALL, images=torch.float32), torch.float32),
    "resnet/32 uint8 bf16 focal l1": (replace(_SWIN_SMALL, loss="focal_l1"), torch.bfloat16),
    "swin/32 uint8 bf16 channels first": (_FIRST_SMALL, torch.bfloat16),
    "swin/32 uint8 bf16 map": (replace(_FIRST_SMALL, pred="map"), torch.bfloat16),
    "mean": (replace(_VIT_SMALL, batch=8, patch=2, grid=(14, 14), rows=1176), torch.float32),
}
TARGETS = (
    Targets(
        "Patch loss with gradient",
        cpu={"eager": 4, "compile": 1.5},
        cuda={"copy": 0.88, "official": 8, "compile": 1.6},
    ),
)


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.patch_loss`, equal on every device.

    dtype: type of `pred`.
    """
    generator = torch.Generator().manual_seed(seed)
    (rows, columns), p, c = case.grid, case.patch, case.channels
    gap = 2 if case.memory == "strided" else 1
    shape = (case.batch, rows * p, columns * p * gap, c)
    if case.memory == "constant":
        values = torch.randn(case.batch, rows, 1, columns, 1, 1, generator=generator)
        images = values.expand(case.batch, rows, p, columns, p, c).reshape(shape)
    else:
        images = torch.randn(shape, generator=generator)
    images = (images * 60 + 120).clamp(0, 255).to(torch.uint8) if case.images == torch.uint8 else images.to(case.images)
    total, values = case.batch * rows * columns, p * p * c
    pred = torch.randn(case.rows if case.pred == "rows" else total, gap * values, generator=generator)
    pred = pred.to(device, dtype)
    if case.pred == "tokens":
        pred = pred.view(case.batch, rows * columns, gap * values)
    elif case.pred == "map":
        pred = pred.view(case.batch, gap * values, rows * columns).transpose(1, 2)
    index = torch.randperm(total, generator=generator)[: case.rows].sort().values
    mean, std = 0.4 + 0.05 * torch.arange(c), 0.2 + 0.01 * torch.arange(c)
    grad_scale = 1.0 if dtype == torch.float16 else 1 / max(case.rows * values, 1)
    tensors = (pred[..., ::gap], images[:, :, ::gap].to(device), index.to(device), p, mean.to(device), std.to(device))
    numbers = (ELEMENT_LOSSES.index(case.loss), 0.2, case.gamma, case.layout == "channel_row_column")
    return *tensors, case.norm_pix, *numbers, grad_scale


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that loss and gradient cannot do without.

    Hidden pixels and predictions are read, and the gradient is written.
    """
    values = case.patch**2 * case.channels
    written = case.rows if case.pred == "rows" else case.batch * case.grid[0] * case.grid[1]
    return values * (case.rows * (case.images.itemsize + dtype.itemsize) + written * dtype.itemsize)


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the predictions, and the functions of the predictions that the benchmark runs.

    official: the published code, on predictions of all patches and on normalised images.
    """
    args = inputs(case, dtype, device)
    pred, images, rows, p, mean, std = args[:6]
    pred.requires_grad_()

    def ours(pred):
        return patch_loss(
            pred,
            images,
            rows,
            p,
            mean,
            std,
            norm_pix=case.norm_pix,
            loss=case.loss,
            gamma=case.gamma,
            layout=case.layout,
        )

    def plain(pred):
        return reference.patch_loss(pred, *args[1:])

    def mae(_):
        every.grad = None
        target = x.reshape(b, c, h // p, p, w // p, p)
        target = torch.einsum("nchpwq->nhwpqc", target).reshape(b, -1, p**2 * c)
        if case.norm_pix:
            target = (target - target.mean(dim=-1, keepdim=True)) / (target.var(dim=-1, keepdim=True) + 1e-6) ** 0.5
        return (((every - target) ** 2).mean(dim=-1) * mask).sum() / mask.sum()

    def simmim(_):
        every.grad = None
        rec = pixel_shuffle(every.transpose(1, 2).unflatten(2, case.grid), p)
        pixels = mask.view(b, *case.grid).repeat_interleave(p, 1).repeat_interleave(p, 2).unsqueeze(1)
        if case.loss == "focal_l1":  # A2MIM
            d = (rec - x).abs()
            each = d * (2 * torch.sigmoid(0.2 * d) - 1) ** case.gamma
        else:
            each = l1_loss(x, rec, reduction="none")
        return (each * pixels).sum() / (pixels.sum() + 1e-5) / c

    b, h, w, c = images.shape
    total = b * case.grid[0] * case.grid[1]
    every = pred
    if case.pred == "rows":
        every = torch.randn(b, total // b, pred.shape[1], device=device).to(dtype)
        if case.loss != "l2":  # the output of a convolution
            every = every.transpose(1, 2).contiguous().transpose(1, 2)
        every.requires_grad_()
    mask = torch.zeros(total, device=device).index_fill_(0, rows, 1).view(b, -1)
    x = ((images.float() / 255 - mean) / std if images.dtype == torch.uint8 else images.float()).permute(0, 3, 1, 2)
    x = x.contiguous()
    return pred, {"ours": ours, "reference": plain, "official": mae if case.loss == "l2" else simmim}
