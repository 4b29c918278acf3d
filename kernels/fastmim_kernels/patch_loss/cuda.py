"""patch_loss for CUDA tensors, in Triton: one program per row, the whole patch in registers, read and written once."""

import torch
import triton
import triton.language as tl

from .._check import warps


@triton.jit
def _rows(
    pred,  # (N, P), contiguous
    images,  # (B, H, W, C), contiguous
    rows,  # (N,)
    mean,  # (C,)
    std,  # (C,)
    grad,  # (N, P), contiguous; untouched unless WITH_GRAD
    sums,  # (N,) float32, summed loss of each row
    height,
    width,
    grad_scale,  # float32: times d(sum of losses)/d(pred) is what is written
    CHANNELS: tl.constexpr,
    PATCH: tl.constexpr,
    NORM_PIX: tl.constexpr,
    L1: tl.constexpr,
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
    # The line of a patch starts at a multiple of LINE values, whatever the row: said here because the compiler cannot
    # see it through `row`, and only aligned addresses are read as vectors.
    start = tl.multiple_of((top * width) * CHANNELS + left, LINE)
    x = tl.load(images + start + (i // LINE) * (width * CHANNELS) + i % LINE, mask=inside, other=0).to(tl.float32)
    y = tl.load(pred + n * VALUES + i, mask=inside, other=0).to(tl.float32)
    if images.dtype.element_ty == tl.uint8:
        x = (x / 255 - tl.load(mean + i % CHANNELS)) / tl.load(std + i % CHANNELS)
        x = tl.where(inside, x, 0.0)
    if NORM_PIX:
        # Exact for a constant patch: what rounding leaves after the first subtraction is the same everywhere, and goes
        # with the second one.
        x = tl.where(inside, x - tl.sum(x) / VALUES, 0.0)
        rest = tl.sum(x) / VALUES
        variance = (tl.sum(x * x) - rest * rest * VALUES) / (VALUES - 1)
        x = (x - rest) / tl.sqrt(tl.maximum(variance, 0.0) + 1e-6)
    d = tl.where(inside, y - x, 0.0)
    if L1:
        tl.store(sums + n, tl.sum(tl.abs(d)))
        slope = tl.where(d > 0, grad_scale, 0.0) - tl.where(d < 0, grad_scale, 0.0)
    else:
        tl.store(sums + n, tl.sum(d * d))
        slope = d * (2 * grad_scale)
    if WITH_GRAD:
        tl.store(grad + n * VALUES + i, slope.to(grad.dtype.element_ty), mask=inside)


@triton.jit
def _mean(sums, loss, n, count, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """One program adds the rows' sums in float64, always in the same order, which atomics would not keep."""
    i = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    # A constant bound, a power of two so that few are compiled: Triton 3.6's interpreter refuses another.
    for k in range(ROUNDS):
        total += tl.load(sums + k * BLOCK + i, mask=k * BLOCK + i < n, other=0.0)
    tl.store(loss, (tl.sum(total) / count).to(tl.float32))


def launch(pred, images, rows, patch_size, mean, std, norm_pix, l1, grad_scale):
    """The op's schema, on CUDA tensors (on CPU tensors in Triton's interpreter)."""
    pred, images, rows = pred.contiguous(), images.contiguous(), rows.contiguous()
    n, values = pred.shape
    loss = pred.new_zeros((), dtype=torch.float32)
    grad = torch.empty_like(pred) if grad_scale is not None else pred.new_empty(0)
    if n == 0:
        return loss, grad
    sums = pred.new_empty(n, dtype=torch.float32)
    _, height, width, channels = images.shape
    block = triton.next_power_of_2(values)
    _rows[(n,)](
        pred, images, rows, mean.contiguous(), std.contiguous(), grad, sums, height, width,
        grad_scale or 0.0,
        CHANNELS=channels, PATCH=patch_size, NORM_PIX=norm_pix, L1=l1, WITH_GRAD=grad_scale is not None,
        BLOCK=block, num_warps=warps(block),
    )  # fmt: skip
    _mean[(1,)](sums, loss, n, n * values, ROUNDS=triton.next_power_of_2(triton.cdiv(n, 1024)), BLOCK=1024)
    return loss, grad


def compile_only():
    """What `bench.compile` compiles: (label, kernel, types of the runtime arguments, constants, warps)."""
    for label, patch, image, value, norm_pix in [
        ("vit_b/16 uint8 fp32 norm l2", 16, "u8", "fp32", True),
        ("vit_b/16 uint8 bf16 norm l2", 16, "u8", "bf16", True),
        ("vit_b/16 bf16 bf16 norm l2", 16, "bf16", "bf16", True),
        ("vit_b/16 uint8 bf16 l1", 16, "u8", "bf16", False),
        ("vit_h/14 uint8 fp16 norm l2", 14, "u8", "fp16", True),
        ("swin/32 fp32 fp32 l1", 32, "fp32", "fp32", False),
    ]:
        block = triton.next_power_of_2(patch * patch * 3)
        types = [f"*{value}", f"*{image}", "*i64", "*fp32", "*fp32", f"*{value}", "*fp32", "i32", "i32", "fp32"]
        constants = {
            "CHANNELS": 3, "PATCH": patch, "NORM_PIX": norm_pix, "L1": not norm_pix, "WITH_GRAD": True, "BLOCK": block,
        }  # fmt: skip
        yield label, _rows, types, constants, warps(block)
    yield "mean", _mean, ["*fp32", "*fp32", "i32", "i32"], {"ROUNDS": 64, "BLOCK": 1024}, 4
