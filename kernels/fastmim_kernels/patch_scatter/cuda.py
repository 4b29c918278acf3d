"""patch_scatter for CUDA tensors, in Triton: one program per patch of the images, which looks for its row itself."""

import triton
import triton.language as tl

from .._check import warps


@triton.jit
def _scatter(
    grad,  # (B, K, P), contiguous
    ids,  # (B, K), contiguous
    out,  # (B, H, W, C)
    num_ids,
    height,
    width,
    CHANNELS: tl.constexpr,
    PATCH: tl.constexpr,
    IDS: tl.constexpr,  # power of two >= K
    BLOCK: tl.constexpr,  # power of two >= P
):
    VALUES: tl.constexpr = PATCH * PATCH * CHANNELS
    LINE: tl.constexpr = PATCH * CHANNELS  # contiguous in the image
    columns = width // PATCH
    patches = columns * (height // PATCH)
    n = tl.program_id(0).to(tl.int64)
    image, patch = n // patches, n % patches
    k = tl.arange(0, IDS)
    found = tl.load(ids + image * num_ids + k, mask=k < num_ids, other=-1) == patch
    row = tl.max(tl.where(found, k, -1))  # a search among K indices in cache, so that nothing is written twice
    i = tl.arange(0, BLOCK)
    x = tl.load(grad + (image * num_ids + row) * VALUES + i, mask=i < tl.where(row < 0, 0, VALUES), other=0.0)
    top = image * height + (patch // columns) * PATCH
    start = tl.multiple_of((top * width) * CHANNELS + (patch % columns) * LINE, LINE)  # see patch_gather
    place = out + start + (i // LINE) * (width * CHANNELS) + i % LINE
    tl.store(place, x.to(tl.float32).to(out.dtype.element_ty), mask=i < VALUES)


def launch(grad, ids, height, width, patch_size, dtype):
    """The op's schema, on CUDA tensors (on CPU tensors in Triton's interpreter)."""
    grad, ids = grad.contiguous(), ids.contiguous()
    batch, num_ids, values = grad.shape
    channels = values // patch_size**2
    out = grad.new_empty((batch, height, width, channels), dtype=dtype)
    if out.numel():
        block = triton.next_power_of_2(values)
        _scatter[(batch * (height // patch_size) * (width // patch_size),)](
            grad, ids, out, num_ids, height, width,
            CHANNELS=channels, PATCH=patch_size, IDS=triton.next_power_of_2(max(num_ids, 1)), BLOCK=block,
            num_warps=warps(block),
        )  # fmt: skip
    return out


def compile_only():
    """What `bench.compile` compiles: (label, kernel, types of the runtime arguments, constants, warps)."""
    for label, patch, num_ids, grad, value in [
        ("vit_b/16 fp32", 16, 64, "fp32", "fp32"),
        ("vit_b/16 bf16 fp32", 16, 64, "bf16", "fp32"),
        ("vit_h/14 bf16", 14, 64, "bf16", "bf16"),
    ]:
        block = triton.next_power_of_2(patch * patch * 3)
        types = [f"*{grad}", "*i64", f"*{value}", "i32", "i32", "i32"]
        constants = {"CHANNELS": 3, "PATCH": patch, "IDS": num_ids, "BLOCK": block}
        yield label, _scatter, types, constants, warps(block)
