"""unshuffle for CUDA tensors, in Triton: one program per token of the result."""

import triton
import triton.language as tl

from .._launch import num_warps


@triton.jit
def _unshuffle(
    latent,  # (B, prefix + K, D), contiguous
    mask_token,  # (D,)
    pos_embed,  # (prefix + L, D), contiguous
    ids,  # (B, L), contiguous
    out,  # (B, prefix + L, D)
    num_prefix,
    num_given,  # prefix + K
    num_tokens,  # prefix + L
    DIM: tl.constexpr,
    RASTER: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= D
):
    n = tl.program_id(0).to(tl.int64)
    image, j = n // num_tokens, n % num_tokens
    patch = tl.load(ids + image * (num_tokens - num_prefix) + j - num_prefix, mask=j >= num_prefix, other=0)
    place = tl.where(j < num_prefix, j, num_prefix + patch)
    d = tl.arange(0, BLOCK)
    given = tl.where(j < num_given, DIM, 0)
    x = tl.load(latent + (image * num_given + j) * DIM + d, mask=d < given, other=0.0).to(tl.float32)
    token = tl.load(mask_token + d, mask=(d >= given) & (d < DIM), other=0.0).to(tl.float32)
    pos = tl.load(pos_embed + place * DIM + d, mask=d < DIM, other=0.0).to(tl.float32)
    row = image * num_tokens + (place if RASTER else j)
    tl.store(out + row * DIM + d, (tl.where(d < given, x, token) + pos).to(out.dtype.element_ty), mask=d < DIM)


def launch(latent, mask_token, pos_embed, ids, raster):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    latent, mask_token, pos_embed, ids = (x.contiguous() for x in (latent, mask_token, pos_embed, ids))
    batch, num_given, dim = latent.shape
    num_tokens = pos_embed.shape[1]
    out = pos_embed.new_empty((batch, num_tokens, dim))
    if out.numel():
        block = triton.next_power_of_2(dim)
        _unshuffle[(batch * num_tokens,)](
            latent, mask_token, pos_embed, ids, out, num_tokens - ids.shape[1], num_given, num_tokens,
            DIM=dim, RASTER=raster, BLOCK=block, num_warps=num_warps(block),
        )  # fmt: skip
    return out


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for label, latent, params, out, raster in [
        ("dim 512 fp32", "fp32", "fp32", "fp32", False),
        ("dim 512 bf16 fp32 (autocast)", "bf16", "fp32", "fp32", False),
        ("dim 512 bf16 raster", "bf16", "bf16", "bf16", True),
    ]:
        types = [f"*{latent}", f"*{params}", f"*{params}", "*i64", f"*{out}", "i32", "i32", "i32"]
        yield label, _unshuffle, types, {"DIM": 512, "RASTER": raster, "BLOCK": 512}, num_warps(512)
