"""patch_gather for CUDA tensors, in Triton: one program per patch, every pixel read and every value written once."""

import triton
import triton.language as tl

from .._check import warps


@triton.jit
def _gather(
    images,  # (B, H, W, C), contiguous
    ids,  # (B, K), contiguous
    mean,  # (C,)
    std,  # (C,)
    out,  # (B, K, P)
    num_ids,
    height,
    width,
    CHANNELS: tl.constexpr,
    PATCH: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= P
):
    VALUES: tl.constexpr = PATCH * PATCH * CHANNELS
    LINE: tl.constexpr = PATCH * CHANNELS  # contiguous in the image
    n = tl.program_id(0).to(tl.int64)
    columns = width // PATCH
    patch = tl.load(ids + n)
    top = (n // num_ids) * height + (patch // columns) * PATCH
    # A line starts at a multiple of LINE values: said here because the compiler cannot see it through `patch`, and only
    # aligned addresses are read as vectors.
    start = tl.multiple_of((top * width) * CHANNELS + (patch % columns) * LINE, LINE)
    i = tl.arange(0, BLOCK)
    inside = i < VALUES
    x = tl.load(images + start + (i // LINE) * (width * CHANNELS) + i % LINE, mask=inside, other=0).to(tl.float32)
    if images.dtype.element_ty == tl.uint8:
        # div_rn: `/` is rounded otherwise than the C++ division.
        x = tl.div_rn(x, 255.0) - tl.load(mean + i % CHANNELS)
        x = tl.div_rn(x, tl.load(std + i % CHANNELS))
    tl.store(out + n * VALUES + i, x.to(out.dtype.element_ty), mask=inside)


def launch(images, ids, patch_size, mean, std, dtype):
    """The op's schema, on CUDA tensors (on CPU tensors in Triton's interpreter)."""
    images, ids = images.contiguous(), ids.contiguous()
    _, height, width, channels = images.shape
    values = patch_size**2 * channels
    out = images.new_empty((*ids.shape, values), dtype=dtype)
    if out.numel():
        block = triton.next_power_of_2(values)
        _gather[(ids.numel(),)](
            images, ids, mean.contiguous(), std.contiguous(), out, ids.shape[1], height, width,
            CHANNELS=channels, PATCH=patch_size, BLOCK=block, num_warps=warps(block),
        )  # fmt: skip
    return out


def compile_only():
    """What `bench.compile` compiles: (label, kernel, types of the runtime arguments, constants, warps)."""
    for label, patch, image, value in [
        ("vit_b/16 uint8 fp32", 16, "u8", "fp32"),
        ("vit_b/16 uint8 bf16", 16, "u8", "bf16"),
        ("vit_b/16 fp32 bf16", 16, "fp32", "bf16"),
        ("vit_h/14 uint8 bf16", 14, "u8", "bf16"),
    ]:
        block = triton.next_power_of_2(patch * patch * 3)
        types = [f"*{image}", "*i64", "*fp32", "*fp32", f"*{value}", "i32", "i32", "i32"]
        yield label, _gather, types, {"CHANNELS": 3, "PATCH": patch, "BLOCK": block}, warps(block)
