"""A small call of every variant of every Triton kernel that `bench.compile` compiles: its inputs, by the same label.

What a sanitizer watches (`bench.each_op`) is so what is compiled. May import fastmim_kernels.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

import torch

BF16, FP16, FP32, U8 = torch.bfloat16, torch.float16, torch.float32, torch.uint8


def _block_mask(cases) -> dict:
    sizes = {"36 blocks of 1 x 1": (6, 6, 1), "49 blocks of 2 x 2": (14, 14, 2), "196 blocks of 2 x 2": (28, 28, 2)}
    sizes["2048 blocks of 2 x 2"] = (64, 128, 2)
    return {label: (cases.Case(1, *size), torch.int64) for label, size in sizes.items()}


def _composite_residual(cases) -> dict:
    vit = cases.Case(batch=32, grid=(1, 2), patch=16, num_keep=1, average=32)
    resnet = replace(vit, patch=32, loss="focal_l1")
    alone = replace(resnet, batch=2, average=1)
    return {
        "vit_b/16 bf16 l1": (vit, BF16),
        "vit_b/16 fp32 l2 mean": (replace(vit, loss="l2", visible="mean"), FP32),
        "resnet50 bf16 focal l1": (resnet, BF16),
        "resnet101 bf16 focal l1": (alone, BF16),
        "resnet101 fp16 focal l1, power": (replace(alone, gamma=2.0), FP16),
    }


def _composite_residual_backward(cases) -> dict:
    vit = cases.Case(batch=2, grid=(1, 2), patch=16, num_keep=1, average=2)
    resnet = replace(vit, patch=32, loss="focal_l1")
    return {
        "vit_b/16 bf16 l1": (vit, BF16),
        "vit_b/16 fp32 l2": (replace(vit, loss="l2"), FP32),
        "resnet50 bf16 focal l1": (resnet, BF16),
        "resnet50 fp16 focal l1, power": (replace(resnet, gamma=2.0), FP16),
    }


def _focal_spectrum_(cases) -> dict:
    frequency = cases.Case(2, (8, 8))
    complex_ = replace(frequency, alpha=0.2)
    found = {
        "focal frequency": frequency,
        "focal frequency log": replace(frequency, log=True),
        "focal frequency log, power": replace(frequency, log=True, alpha=2.0),
        "complex L1": replace(complex_, gamma=0.0),
        "complex focal L1": replace(complex_, gamma=1.0),
        "complex focal L1, power": replace(complex_, gamma=2.5),
    }
    return {label: (case, FP32) for label, case in found.items()}


def _low_pass(cases) -> dict:
    pixmim = cases.Case(batch=1, size=(224, 224), patch=16, rows=147)
    found = {
        "224 uint8": pixmim,
        "224 fp32": replace(pixmim, images=FP32),
        "224 uint8 tf32": replace(pixmim, allow_tf32=True),
        "225 bf16": replace(pixmim, size=(225, 225), patch=15, images=BF16),
    }
    return {f"{side} {label}": (case, FP32) for label, case in found.items() for side in ("forward", "inverse")}


def _mask_token(cases) -> dict:
    case = cases.Case(batch=1, size=(56, 56), cells=(7, 7), dim=128, params=FP32)
    return {
        f"{name} {mode}": (replace(case, mode=mode), dtype)
        for name, dtype in (("fp32", FP32), ("bf16", BF16))
        for mode in ("replace", "add", "gated")
        if (name, mode) != ("fp32", "add")
    }


def _mean_fill(cases) -> dict:
    case = cases.Case(batch=1, grid=(7, 7), size=(224, 224))
    float_ = replace(case, images=FP32)
    return {
        "sums u8": (case, FP32),
        "sums fp32": (float_, FP32),
        "224 x 224 u8 fp32 fill": (case, FP32),
        "224 x 224 u8 bf16 fill": (case, BF16),
        "224 x 224 u8 bf16": (replace(case, grid=None), BF16),
        "224 x 224 fp32 fp32 fill": (float_, FP32),
    }


def _patch_gather(cases) -> dict:
    vit = cases.Case(batch=2, grid=(4, 4), patch=16, num_ids=4)
    pyramid = replace(vit, token=4, columns=2)
    return {
        "vit_b/16 uint8 fp32": (vit, FP32),
        "vit_b/16 uint8 bf16": (vit, BF16),
        "vit_b/16 fp32 bf16": (replace(vit, images=FP32), BF16),
        "vit_h/14 uint8 bf16": (replace(vit, patch=14), BF16),
        "pyramid/4 uint8 fp32": (pyramid, FP32),
        "pyramid/4 uint8 bf16": (pyramid, BF16),
        "image uint8 bf16": (replace(pyramid, token=1), BF16),
    }


def _patch_scatter(cases) -> dict:
    vit = cases.Case(batch=1, grid=(8, 9), patch=16, num_ids=49)
    return {
        "vit_b/16 fp32": (vit, FP32),
        "vit_b/16 bf16 fp32": (replace(vit, images=FP32), BF16),
        "vit_h/14 bf16": (replace(vit, patch=14), BF16),
        "pyramid/4 bf16": (replace(vit, grid=(16, 16), num_ids=64, token=4, columns=8), BF16),
    }


def _patch_loss(cases) -> dict:
    vit = cases.Case(batch=2, grid=(2, 3), patch=16, rows=7)
    swin = replace(vit, patch=32, norm_pix=False, loss="l1")
    first = replace(swin, layout="channel_row_column")
    return {
        "vit_b/16 uint8 fp32 norm l2": (vit, FP32),
        "vit_b/16 uint8 bf16 norm l2": (vit, BF16),
        "vit_b/16 bf16 bf16 norm l2": (replace(vit, images=BF16), BF16),
        "vit_b/16 uint8 bf16 l1": (replace(swin, patch=16), BF16),
        "vit_h/14 uint8 fp16 norm l2": (replace(vit, patch=14), FP16),
        "swin/32 fp32 fp32 l1": (replace(swin, images=FP32), FP32),
        "resnet/32 uint8 bf16 focal l1": (replace(swin, loss="focal_l1"), BF16),
        "swin/32 uint8 bf16 channels first": (first, BF16),
        "swin/32 uint8 bf16 map": (replace(first, pred="map"), BF16),
        "mean": (replace(vit, batch=8, patch=2, grid=(14, 14), rows=1176), FP32),
    }


def _philox(cases) -> dict:
    return {f"{n} words": (cases.Case(3, n), torch.int64) for n in (1, 2, 40, 196)}


def _random_mask(cases) -> dict:
    return {
        f"{n} patches, {'raster' if raster else 'noise order'}": (cases.Case(1, n, n // 4, raster), torch.int64)
        for n, raster in ((196, False), (196, True), (1024, True), (4096, False), (4096, True))
    }


def _scale_(cases) -> dict:
    large = cases.Case((1025, 1024), 0.5)  # more than one round a program
    return {"fp32": (large, FP32), "bf16": (large, BF16), "fp16": (large, FP16)}


def _uniform_mask(cases) -> dict:
    return {
        f"{side} x {side} patches, {'stratified' if stratified else 'iid'}": (
            cases.Case(1, side, side, side**2 // 5, stratified), torch.int64
        )
        for side, stratified in ((16, True), (16, False), (14, True), (32, True), (64, True))
    }  # fmt: skip


def _unshuffle(cases) -> dict:
    case = cases.Case(batch=2, num_patches=9, num_keep=4, dim=512)
    return {
        "dim 512 fp32": (case, FP32),
        "dim 512 bf16 fp32 (autocast)": (replace(case, params=FP32), BF16),
        "dim 512 bf16 raster": (replace(case, raster=True), BF16),
    }


def _unshuffle_backward(cases) -> dict:
    case = cases.forward.Case(batch=2, num_patches=9, num_keep=4, dim=512)
    mixed, raster = replace(case, params=BF16), replace(case, raster=True)  # params: the latent's type
    return {
        "fp32": (cases.Case(case), FP32),
        "fp32 bf16 (autocast)": (cases.Case(mixed), FP32),
        "bf16 raster": (cases.Case(raster), BF16),
        "positions bf16": (cases.Case(raster, with_pos=True), BF16),
    }


def _window_attention(cases) -> dict:
    return {
        f"{side}x{side} {name}": (cases.Case(1, (side, side), (side, side), (0, 0), 1), dtype)
        for side in (4, 6, 7, 8, 12, 14, 16)
        for name, dtype in (("bf16", BF16), ("fp32", FP32))
    }


def _window_attention_backward(cases) -> dict:
    found = _window_attention(cases)
    return found | {f"{label} queries": call for label, call in found.items() if call[0].grid[0] > 8}


_OPS = {
    "block_mask": _block_mask,
    "composite_residual": _composite_residual,
    "composite_residual_backward": _composite_residual_backward,
    "focal_spectrum_": _focal_spectrum_,
    "low_pass": _low_pass,
    "mask_token": _mask_token,
    "mask_token_backward": _mask_token,
    "mean_fill": _mean_fill,
    "patch_gather": _patch_gather,
    "patch_loss": _patch_loss,
    "patch_scatter": _patch_scatter,
    "philox": _philox,
    "random_mask": _random_mask,
    "scale_": _scale_,
    "uniform_mask": _uniform_mask,
    "unshuffle": _unshuffle,
    "unshuffle_backward": _unshuffle_backward,
    "window_attention": _window_attention,
    "window_attention_backward": _window_attention_backward,
}


def variants(op: str) -> dict[str, tuple]:
    """Label of a compiled kernel -> (case, dtype) of a call that launches it, perhaps beside others."""
    return _OPS[op](importlib.import_module(f"fastmim_kernels.{op}.cases"))
