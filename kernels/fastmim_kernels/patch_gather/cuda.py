"""patch_gather for CUDA tensors, in Triton.

One program per patch reads every pixel and writes every value once.
"""

import triton
import triton.language as tl

from .._launch import num_warps


@triton.jit
def _gather(
    images,  # (B, H, W, C), contiguous
    ids,  # (B, K), contiguous
    mean,  # (C,)
    std,  # (C,)
    out,  # (B, N, t t C)
    num_ids,
    height,
    width,
    columns,  # patches side by side in the result
    CHANNELS: tl.constexpr,
    PATCH: tl.constexpr,
    TOKEN: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= P
):
    VALUES: tl.constexpr = PATCH * PATCH * CHANNELS
    LINE: tl.constexpr = PATCH * CHANNELS  # contiguous in the image
    STRIP: tl.constexpr = TOKEN * LINE  # contiguous in the result
    RUN: tl.constexpr = LINE if TOKEN == 1 else TOKEN * CHANNELS  # contiguous in both
    TOKENS: tl.constexpr = LINE // RUN  # tokens of a strip; pixels of a strip count as one token
    n = tl.program_id(0).to(tl.int64)
    grid_columns = width // PATCH
    patch = tl.load(ids + n)
    top = (n // num_ids) * height + (patch // grid_columns) * PATCH
    # The hint says that a line starts at a multiple of LINE values. Only aligned addresses are read as vectors, and the
    # compiler cannot derive the alignment through `patch`.
    start = tl.multiple_of((top * width) * CHANNELS + (patch % grid_columns) * LINE, LINE)
    i = tl.arange(0, BLOCK)
    inside = i < VALUES
    strip, token = i // STRIP, i // (TOKEN * RUN) % TOKENS
    line = strip * TOKEN + i // RUN % TOKEN
    x = tl.load(images + start + line * (width * CHANNELS) + token * RUN + i % RUN, mask=inside, other=0).to(tl.float32)
    if images.dtype.element_ty == tl.uint8:
        # div_rn rounds as the C++ division does; `/` does not.
        x = tl.div_rn(x, 255.0) - tl.load(mean + i % CHANNELS)
        x = tl.div_rn(x, tl.load(std + i % CHANNELS))
    place = out + n // columns * (columns * VALUES) + n % columns * STRIP
    tl.store(place + strip * (columns * STRIP) + i % STRIP, x.to(out.dtype.element_ty), mask=inside)


def launch(images, ids, patch_size, mean, std, dtype, token_size, columns):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    images, ids = images.contiguous(), ids.contiguous()
    _, height, width, channels = images.shape
    values = patch_size**2 * channels
    tokens = ids.shape[1] * (patch_size // token_size) ** 2
    out = images.new_empty((ids.shape[0], tokens, token_size**2 * channels), dtype=dtype)
    if out.numel():
        block = triton.next_power_of_2(values)
        _gather[(ids.numel(),)](
            images, ids, mean.contiguous(), std.contiguous(), out, ids.shape[1], height, width, columns,
            CHANNELS=channels, PATCH=patch_size, TOKEN=token_size, BLOCK=block, num_warps=num_warps(block),
        )  # fmt: skip
    return out


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for label, patch, token, image, value in [
        ("vit_b/16 uint8 fp32", 16, 16, "u8", "fp32"),
        ("vit_b/16 uint8 bf16", 16, 16, "u8", "bf16"),
        ("vit_b/16 fp32 bf16", 16, 16, "fp32", "bf16"),
        ("vit_h/14 uint8 bf16", 14, 14, "u8", "bf16"),
        ("pyramid/4 uint8 fp32", 16, 4, "u8", "fp32"),
        ("pyramid/4 uint8 bf16", 16, 4, "u8", "bf16"),
        ("image uint8 bf16", 16, 1, "u8", "bf16"),
    ]:
        block = triton.next_power_of_2(patch * patch * 3)
        types = [f"*{image}", "*i64", "*fp32", "*fp32", f"*{value}", "i32", "i32", "i32", "i32"]
        constants = {"CHANNELS": 3, "PATCH": patch, "TOKEN": token, "BLOCK": block}
        yield label, _gather, types, constants, num_warps(block)
