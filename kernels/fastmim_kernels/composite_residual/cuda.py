"""composite_residual for CUDA tensors, in Triton.

Each program sums one patch over some images in registers.
"""

import torch
import triton
import triton.language as tl

from .._launch import num_warps
from ..composite_residual_backward.cuda import pixels
from ..focal_frequency.cuda import focal_l1

_IMAGES = 32
"""Images that one program sums.

The number is small enough that a group of 256 images fills a GPU, and large enough that programs write little.
"""


@triton.jit
def _patches(
    pred,  # (B, L, P), contiguous
    images,  # (B, H, W, C), contiguous
    inverse,  # (B, L): the row of pred of each patch
    mean,  # (C,)
    std,  # (C,)
    fill,  # (B, C) float32, if WITH_FILL
    residual,  # (B / average, parts, H, W, C) float32
    sums,  # (B / average, parts, L) float32
    height,
    width,
    num_keep,
    average,
    parts,
    share,  # 1 / average
    alpha,
    gamma,
    visible_value,
    fill_weight,
    CHANNELS: tl.constexpr,
    PATCH: tl.constexpr,
    LOSS: tl.constexpr,
    GAMMA_IS_1: tl.constexpr,
    READ_VISIBLE: tl.constexpr,
    WITH_FILL: tl.constexpr,
    ROUNDS: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= P
):
    VALUES: tl.constexpr = PATCH * PATCH * CHANNELS
    LINE: tl.constexpr = PATCH * CHANNELS
    n = tl.program_id(0).to(tl.int64)
    columns = width // PATCH
    patches = columns * (height // PATCH)
    patch = n % patches
    part = n // patches % parts
    group = n // patches // parts
    i = tl.arange(0, BLOCK)
    inside = i < VALUES
    corner = (patch // columns) * PATCH * width * CHANNELS + (patch % columns) * LINE
    size = height * width * CHANNELS
    added = tl.zeros((BLOCK,), tl.float32)
    losses = tl.zeros((BLOCK,), tl.float32)
    for k in range(ROUNDS):
        member = part * ROUNDS + k
        image = group * average + tl.minimum(member, average - 1)
        row = tl.load(inverse + image * patches + patch)
        hidden = (member < average) & (row >= num_keep)
        read = i < tl.where(hidden, VALUES, 0)
        if READ_VISIBLE:
            read = i < tl.where(member < average, VALUES, 0)
        # Only aligned addresses are read as vectors, and the compiler cannot derive this alignment without the hint.
        start = tl.multiple_of(image * size + corner, LINE)
        x = pixels(images, start, width, mean, std, i, read, CHANNELS, PATCH)
        place = pred + (image * patches + row) * VALUES + i
        d = tl.where(read, tl.load(place, mask=read, other=0).to(tl.float32) - x, 0.0)
        seen = visible_value * d
        if WITH_FILL:
            seen += fill_weight * (tl.load(fill + image * CHANNELS + i % CHANNELS) - x)
        added += tl.where(read, tl.where(hidden, d, seen), 0.0)
        if LOSS == 0:
            each = tl.abs(d)
        elif LOSS == 1:
            each = d * d
        else:
            each, _ = focal_l1(tl.abs(d), alpha, gamma, GAMMA_IS_1)
        losses += tl.where(hidden, each, 0.0)
    tl.store(sums + n, tl.sum(losses))
    start = tl.multiple_of(n // patches * size + corner, LINE)
    tl.store(residual + start + (i // LINE) * (width * CHANNELS) + i % LINE, added * share, mask=inside)


def launch(
    pred, images, ids, num_keep, patch_size, mean, std, fill, loss, alpha, gamma, visible_value, visible_weight, average
):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    pred, images = pred.contiguous(), images.contiguous()
    batch, num_patches, values = pred.shape
    rounds = min(_IMAGES, triton.next_power_of_2(average))
    groups, parts = batch // average, triton.cdiv(average, rounds)
    residual = pred.new_empty((groups, parts, *images.shape[1:]), dtype=torch.float32)
    if not pred.numel():
        return pred.new_zeros((), dtype=torch.float32), residual[:, 0]
    inverse = torch.empty_like(ids, memory_format=torch.contiguous_format)
    inverse.scatter_(1, ids, torch.arange(num_patches, device=ids.device).expand_as(ids))
    sums = pred.new_empty(groups * parts * num_patches, dtype=torch.float32)
    block = triton.next_power_of_2(values)
    _patches[(groups * parts * num_patches,)](
        pred, images, inverse, mean.contiguous(), std.contiguous(), mean if fill is None else fill.contiguous(),
        residual, sums, images.shape[1], images.shape[2], num_keep, average, parts, 1 / average, alpha, gamma,
        visible_value, 1 - visible_weight,
        CHANNELS=images.shape[3], PATCH=patch_size, LOSS=loss, GAMMA_IS_1=gamma == 1,
        READ_VISIBLE=visible_value != 0 or fill is not None, WITH_FILL=fill is not None, ROUNDS=rounds, BLOCK=block,
        num_warps=num_warps(block),
    )  # fmt: skip
    count = max(batch * (num_patches - num_keep) * values, 1)
    value = (sums.sum(dtype=torch.float64) / count).float()
    return value, residual.sum(1) if parts > 1 else residual[:, 0]


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for label, value, patch, loss, gamma_is_1, fill, rounds in [
        ("vit_b/16 bf16 l1", "bf16", 16, 0, True, False, _IMAGES),
        ("vit_b/16 fp32 l2 mean", "fp32", 16, 1, True, True, _IMAGES),
        ("resnet50 bf16 focal l1", "bf16", 32, 2, True, False, _IMAGES),
        ("resnet101 bf16 focal l1", "bf16", 32, 2, True, False, 1),
        ("resnet101 fp16 focal l1, power", "fp16", 32, 2, False, False, 1),
    ]:
        block = triton.next_power_of_2(patch * patch * 3)
        types = [f"*{value}", "*u8", "*i64", *["*fp32"] * 5, *["i32"] * 5, *["fp32"] * 5]
        constants = {
            "CHANNELS": 3, "PATCH": patch, "LOSS": loss, "GAMMA_IS_1": gamma_is_1, "READ_VISIBLE": True,
            "WITH_FILL": fill, "ROUNDS": rounds, "BLOCK": block,
        }  # fmt: skip
        yield label, _patches, types, constants, num_warps(block)
