"""composite_residual_backward for CUDA tensors, in Triton.

One program per row keeps a whole patch in registers.
"""

import torch
import triton
import triton.language as tl

from .._launch import num_warps
from ..focal_frequency.cuda import focal_l1


@triton.jit
def pixels(images, start, width, mean, std, i, read, CHANNELS: tl.constexpr, PATCH: tl.constexpr):
    """Returns the normalised patch that begins at `start`. Values outside `read` are undefined."""
    LINE: tl.constexpr = PATCH * CHANNELS  # contiguous in the image
    x = tl.load(images + start + (i // LINE) * (width * CHANNELS) + i % LINE, mask=read, other=0).to(tl.float32)
    if images.dtype.element_ty == tl.uint8:
        inside = i < PATCH * LINE
        deviation = tl.load(std + i % CHANNELS, mask=inside, other=1.0)
        x = x * (1 / (255 * deviation)) - tl.load(mean + i % CHANNELS, mask=inside, other=0.0) / deviation
    return x


@triton.jit
def _rows(
    grad_loss,  # () float32
    grad_residual,  # (B / average, H, W, C) float32, contiguous
    pred,  # (B, L, P), contiguous
    images,  # (B, H, W, C), contiguous
    ids,  # (B, L), contiguous
    mean,  # (C,)
    std,  # (C,)
    grad,  # (B, L, P)
    height,
    width,
    num_keep,
    average,
    share,  # 1 / average
    visible_share,  # visible_weight / average
    per_value,  # 1 / number of hidden values
    alpha,
    gamma,
    CHANNELS: tl.constexpr,
    PATCH: tl.constexpr,
    LOSS: tl.constexpr,
    GAMMA_IS_1: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= P
):
    VALUES: tl.constexpr = PATCH * PATCH * CHANNELS
    LINE: tl.constexpr = PATCH * CHANNELS
    n = tl.program_id(0).to(tl.int64)
    columns = width // PATCH
    patches = columns * (height // PATCH)
    image = n // patches
    hidden = n % patches >= num_keep
    patch = tl.load(ids + n)
    i = tl.arange(0, BLOCK)
    inside = i < VALUES
    corner = (patch // columns) * PATCH * width * CHANNELS + (patch % columns) * LINE
    size = height * width * CHANNELS
    # Only aligned addresses are read as vectors, and the compiler cannot derive this alignment without the hint.
    start = tl.multiple_of(image // average * size + corner, LINE)
    factor = tl.where(hidden, share, visible_share)
    wanted = i < tl.where(factor != 0, VALUES, 0)
    g = tl.load(grad_residual + start + (i // LINE) * (width * CHANNELS) + i % LINE, mask=wanted, other=0.0) * factor
    read = i < tl.where(hidden, VALUES, 0)
    start = tl.multiple_of(image * size + corner, LINE)
    x = pixels(images, start, width, mean, std, i, read, CHANNELS, PATCH)
    d = tl.where(read, tl.load(pred + n * VALUES + i, mask=read, other=0).to(tl.float32) - x, 0.0)
    step = tl.load(grad_loss) * per_value
    if LOSS == 0:
        slope = tl.where(d > 0, step, 0.0) - tl.where(d < 0, step, 0.0)
    elif LOSS == 1:
        slope = 2 * step * d
    else:
        _, slope = focal_l1(tl.abs(d), alpha, gamma, GAMMA_IS_1)
        slope = tl.where(d > 0, step, 0.0) * slope - tl.where(d < 0, step, 0.0) * slope
    tl.store(grad + n * VALUES + i, (g + slope).to(grad.dtype.element_ty), mask=inside)


def launch(
    grad_loss, grad_residual, pred, images, ids, mean, std, num_keep, patch_size, loss, alpha, gamma, visible_weight,
    average,
):  # fmt: skip
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    pred, images, ids = pred.contiguous(), images.contiguous(), ids.contiguous()
    batch, num_patches, values = pred.shape
    grad = torch.empty_like(pred)
    if not grad.numel():
        return grad
    block = triton.next_power_of_2(values)
    _rows[(batch * num_patches,)](
        grad_loss, grad_residual.contiguous(), pred, images, ids, mean.contiguous(), std.contiguous(), grad,
        images.shape[1], images.shape[2], num_keep, average, 1 / average, visible_weight / average,
        1 / max(batch * (num_patches - num_keep) * values, 1), alpha, gamma,
        CHANNELS=images.shape[3], PATCH=patch_size, LOSS=loss, GAMMA_IS_1=gamma == 1, BLOCK=block,
        num_warps=num_warps(block),
    )  # fmt: skip
    return grad


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for label, value, patch, loss, gamma_is_1 in [
        ("vit_b/16 bf16 l1", "bf16", 16, 0, True),
        ("vit_b/16 fp32 l2", "fp32", 16, 1, True),
        ("resnet50 bf16 focal l1", "bf16", 32, 2, True),
        ("resnet50 fp16 focal l1, power", "fp16", 32, 2, False),
    ]:
        block = triton.next_power_of_2(patch * patch * 3)
        types = ["*fp32", "*fp32", f"*{value}", "*u8", "*i64", "*fp32", "*fp32", f"*{value}"]
        types += ["i32"] * 4 + ["fp32"] * 5
        constants = {"CHANNELS": 3, "PATCH": patch, "LOSS": loss, "GAMMA_IS_1": gamma_is_1, "BLOCK": block}
        yield label, _rows, types, constants, num_warps(block)
