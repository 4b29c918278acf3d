"""patch_loss for CUDA tensors, in Triton: one program per row, with the whole patch in registers."""

import torch
import triton
import triton.language as tl

from .._launch import num_warps
from ..focal_frequency.cuda import focal_l1
from . import empty_grad


@triton.jit
def _rows(
    pred,  # (N, P), contiguous; if EVERY, (B, L, P) with the strides below
    images,  # (B, H, W, C), contiguous
    rows,  # (N,)
    mean,  # (C,)
    std,  # (C,)
    grad,  # like pred; untouched unless WITH_GRAD
    sums,  # (N,) float32, summed loss of each row
    height,
    width,
    grad_scale,  # float32 factor on d(sum of losses)/d(pred)
    alpha,
    gamma,
    image_stride,
    row_stride,
    value_stride,
    CHANNELS: tl.constexpr,
    PATCH: tl.constexpr,
    NORM_PIX: tl.constexpr,
    LOSS: tl.constexpr,
    GAMMA_IS_1: tl.constexpr,
    CHANNELS_FIRST: tl.constexpr,
    EVERY: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= P
):
    VALUES: tl.constexpr = PATCH * PATCH * CHANNELS
    LINE: tl.constexpr = PATCH * CHANNELS  # contiguous in the image
    n = tl.program_id(0).to(tl.int64)
    columns = width // PATCH
    patches = columns * (height // PATCH)
    row = tl.load(rows + n)
    patch = row % patches
    top = (row // patches) * height + (patch // columns) * PATCH
    left = (patch % columns) * LINE
    i = tl.arange(0, BLOCK)
    inside = i < VALUES
    # The hint says that a line starts at a multiple of LINE values. Only aligned addresses are read as vectors, and the
    # compiler cannot derive the alignment through `row`.
    start = tl.multiple_of((top * width) * CHANNELS + left, LINE)
    line, column = i // LINE, i % LINE
    if CHANNELS_FIRST:
        # Pixels rather than predictions are read out of order: pixels have fewer bytes and are never written.
        line, column = i // PATCH % PATCH, i % PATCH * CHANNELS + i // (PATCH * PATCH)
    place = n * VALUES + i
    if EVERY:
        place = row // patches * image_stride + patch * row_stride + i.to(tl.int64) * value_stride
    x = tl.load(images + start + line * (width * CHANNELS) + column, mask=inside, other=0).to(tl.float32)
    y = tl.load(pred + place, mask=inside, other=0).to(tl.float32)
    if images.dtype.element_ty == tl.uint8:
        x = (x / 255 - tl.load(mean + column % CHANNELS)) / tl.load(std + column % CHANNELS)
        x = tl.where(inside, x, 0.0)
    if NORM_PIX:
        # The result is exact for a constant patch: the first subtraction leaves the same rounding error everywhere,
        # which the second subtraction removes.
        x = tl.where(inside, x - tl.sum(x) / VALUES, 0.0)
        rest = tl.sum(x) / VALUES
        variance = (tl.sum(x * x) - rest * rest * VALUES) / (VALUES - 1)
        x = (x - rest) / tl.sqrt(tl.maximum(variance, 0.0) + 1e-6)
    d = tl.where(inside, y - x, 0.0)
    if LOSS == 0:
        value, slope = tl.abs(d), tl.where(d > 0, grad_scale, 0.0) - tl.where(d < 0, grad_scale, 0.0)
    elif LOSS == 1:
        value, slope = d * d, d * (2 * grad_scale)
    else:
        value, slope = focal_l1(tl.abs(d), alpha, gamma, GAMMA_IS_1)
        slope *= tl.where(d > 0, grad_scale, 0.0) - tl.where(d < 0, grad_scale, 0.0)
    tl.store(sums + n, tl.sum(value))
    if WITH_GRAD:
        tl.store(grad + place, slope.to(grad.dtype.element_ty), mask=inside)


@triton.jit
def _mean(sums, loss, n, count, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """Writes the mean of the losses, from the sums of all rows.

    One program adds the sums in float64, always in the same order. Atomic additions would have no fixed order.
    """
    i = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    # The bound is a constant, as Triton 3.6's interpreter requires; a power of two, so that few are compiled.
    for k in range(ROUNDS):
        total += tl.load(sums + k * BLOCK + i, mask=k * BLOCK + i < n, other=0.0)
    tl.store(loss, (tl.sum(total) / count).to(tl.float32))


def launch(pred, images, rows, patch_size, mean, std, norm_pix, loss, alpha, gamma, channels_first, grad_scale):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    every, n, values = pred.ndim == 3, rows.shape[0], pred.shape[-1]
    grad = empty_grad(pred, grad_scale)
    if not every:
        pred = pred.contiguous()
    elif grad_scale is not None and pred.stride() != grad.stride():  # predictions overlap or have gaps
        pred = pred.clone()
    images, rows = images.contiguous(), rows.contiguous()
    value = pred.new_zeros((), dtype=torch.float32)
    if n == 0:
        return value, grad
    sums = pred.new_empty(n, dtype=torch.float32)
    _, height, width, channels = images.shape
    block = triton.next_power_of_2(values)
    _rows[(n,)](
        pred, images, rows, mean.contiguous(), std.contiguous(), grad, sums, height, width,
        grad_scale or 0.0, alpha, gamma, *(pred.stride() if every else (0, 0, 0)),
        CHANNELS=channels, PATCH=patch_size, NORM_PIX=norm_pix, LOSS=loss, GAMMA_IS_1=gamma == 1,
        CHANNELS_FIRST=channels_first, EVERY=every, WITH_GRAD=grad_scale is not None,
        BLOCK=block, num_warps=num_warps(block),
    )  # fmt: skip
    _mean[(1,)](sums, value, n, n * values, ROUNDS=triton.next_power_of_2(triton.cdiv(n, 1024)), BLOCK=1024)
    return value, grad


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for label, patch, image, value, norm_pix, loss, channels_first, every in [
        ("vit_b/16 uint8 fp32 norm l2", 16, "u8", "fp32", True, 1, False, False),
        ("vit_b/16 uint8 bf16 norm l2", 16, "u8", "bf16", True, 1, False, False),
        ("vit_b/16 bf16 bf16 norm l2", 16, "bf16", "bf16", True, 1, False, False),
        ("vit_b/16 uint8 bf16 l1", 16, "u8", "bf16", False, 0, False, False),
        ("vit_h/14 uint8 fp16 norm l2", 14, "u8", "fp16", True, 1, False, False),
        ("swin/32 fp32 fp32 l1", 32, "fp32", "fp32", False, 0, False, False),
        ("resnet/32 uint8 bf16 focal l1", 32, "u8", "bf16", False, 2, False, False),
        ("swin/32 uint8 bf16 channels first", 32, "u8", "bf16", False, 0, True, False),
        ("swin/32 uint8 bf16 map", 32, "u8", "bf16", False, 0, True, True),
    ]:
        block = triton.next_power_of_2(patch * patch * 3)
        types = [f"*{value}", f"*{image}", "*i64", "*fp32", "*fp32", f"*{value}", "*fp32", *["i32"] * 2, *["fp32"] * 3]
        types += ["i32"] * 3
        constants = {
            "CHANNELS": 3, "PATCH": patch, "NORM_PIX": norm_pix, "LOSS": loss, "GAMMA_IS_1": True,
            "CHANNELS_FIRST": channels_first, "EVERY": every, "WITH_GRAD": True, "BLOCK": block,
        }  # fmt: skip
        yield label, _rows, types, constants, num_warps(block)
    yield "mean", _mean, ["*fp32", "*fp32", "i32", "i32"], {"ROUNDS": 64, "BLOCK": 1024}, 4
