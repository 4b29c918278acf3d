"""patch_scatter for CUDA tensors, in Triton.

One program per patch of the images finds its own row of tokens.
"""

import triton
import triton.language as tl

from .._launch import num_warps


@triton.jit
def _scatter(
    grad,  # (B, N, t t C), contiguous
    ids,  # (B, K), contiguous
    out,  # (B, H, W, C)
    num_ids,
    height,
    width,
    columns,  # patches side by side in grad
    CHANNELS: tl.constexpr,
    PATCH: tl.constexpr,
    TOKEN: tl.constexpr,
    IDS: tl.constexpr,  # power of two >= K
    BLOCK: tl.constexpr,  # power of two >= P
):
    VALUES: tl.constexpr = PATCH * PATCH * CHANNELS
    LINE: tl.constexpr = PATCH * CHANNELS  # see patch_gather
    STRIP: tl.constexpr = TOKEN * LINE
    RUN: tl.constexpr = LINE if TOKEN == 1 else TOKEN * CHANNELS
    TOKENS: tl.constexpr = LINE // RUN
    grid_columns = width // PATCH
    patches = grid_columns * (height // PATCH)
    n = tl.program_id(0).to(tl.int64)
    image, patch = n // patches, n % patches
    k = tl.arange(0, IDS)
    found = tl.load(ids + image * num_ids + k, mask=k < num_ids, other=-1) == patch
    row = tl.max(tl.where(found, k, -1))  # searching K cached indices avoids writing zeros first
    i = tl.arange(0, BLOCK)
    line, token = i // LINE, i // RUN % TOKENS
    given = image * num_ids + row
    first = grad + given // columns * (columns * VALUES) + given % columns * STRIP
    place = first + line // TOKEN * (columns * STRIP) + token * (TOKEN * RUN) + line % TOKEN * RUN + i % RUN
    x = tl.load(place, mask=i < tl.where(row < 0, 0, VALUES), other=0.0)
    top = image * height + (patch // grid_columns) * PATCH
    start = tl.multiple_of((top * width) * CHANNELS + (patch % grid_columns) * LINE, LINE)  # see patch_gather
    pixel = out + start + line * (width * CHANNELS) + i % LINE
    tl.store(pixel, x.to(tl.float32).to(out.dtype.element_ty), mask=i < VALUES)


def launch(grad, ids, height, width, patch_size, dtype, token_size, columns):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    grad, ids = grad.contiguous(), ids.contiguous()
    (batch, num_ids), channels = ids.shape, grad.shape[2] // token_size**2
    out = grad.new_empty((batch, height, width, channels), dtype=dtype)
    if out.numel():
        block = triton.next_power_of_2(patch_size**2 * channels)
        _scatter[(batch * (height // patch_size) * (width // patch_size),)](
            grad, ids, out, num_ids, height, width, columns,
            CHANNELS=channels, PATCH=patch_size, TOKEN=token_size, IDS=triton.next_power_of_2(max(num_ids, 1)),
            BLOCK=block, num_warps=num_warps(block),
        )  # fmt: skip
    return out


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for label, patch, token, num_ids, grad, value in [
        ("vit_b/16 fp32", 16, 16, 64, "fp32", "fp32"),
        ("vit_b/16 bf16 fp32", 16, 16, 64, "bf16", "fp32"),
        ("vit_h/14 bf16", 14, 14, 64, "bf16", "bf16"),
        ("pyramid/4 bf16", 16, 4, 64, "bf16", "bf16"),
    ]:
        block = triton.next_power_of_2(patch * patch * 3)
        types = [f"*{grad}", "*i64", f"*{value}", "i32", "i32", "i32", "i32"]
        constants = {"CHANNELS": 3, "PATCH": patch, "TOKEN": token, "IDS": num_ids, "BLOCK": block}
        yield label, _scatter, types, constants, num_warps(block)
