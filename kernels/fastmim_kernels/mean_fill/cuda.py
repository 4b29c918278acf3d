"""mean_fill for CUDA tensors, in Triton.

One kernel sums pixels, one writes the result, both in whole vectors.
"""

import torch
import triton
import triton.language as tl

_SUMMED, _WRITTEN = 4096, 2048  # values of a program


@triton.jit
def _sums(
    images,  # (B, H W C), contiguous
    sums,  # (B, C, parts) float32
    values,  # H W C
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image, part = tl.program_id(1).to(tl.int64), tl.program_id(0)
    i = part * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(images + image * values + i, mask=i < values, other=0).to(tl.float32)
    for c in tl.static_range(CHANNELS):
        total = tl.sum(tl.where(i % CHANNELS == c, x, 0.0))
        tl.store(sums + (image * CHANNELS + c) * tl.num_programs(0) + part, total)


@triton.jit
def _write(
    images,  # (B, H W C), contiguous
    hidden,  # (B, rows, columns) bytes; untouched unless FILL
    sums,  # (B, C, parts) float32; untouched unless FILL
    mean,  # (C,)
    std,  # (C,)
    out,  # (B, H W C)
    values,  # H W C
    parts,
    cells,  # rows * columns
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    CELL_HEIGHT: tl.constexpr,
    CELL_WIDTH: tl.constexpr,
    FILL: tl.constexpr,
    PARTS: tl.constexpr,  # power of two >= parts
    BLOCK: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < values
    channel = i % CHANNELS
    x = tl.load(images + image * values + i, mask=inside, other=0).to(tl.float32)
    if images.dtype.element_ty == tl.uint8:
        # Constants are selected per value, not loaded: their loads would be as many as those of pixels and result.
        center, scale = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        for c in tl.static_range(CHANNELS):
            center = tl.where(channel == c, tl.load(mean + c), center)
            scale = tl.where(channel == c, tl.load(std + c), scale)
        # div_rn rounds as the C++ division does; `/` does not.
        x = tl.div_rn(tl.div_rn(x, 255.0) - center, scale)
    if FILL:
        part = tl.arange(0, PARTS)
        fill = tl.zeros((BLOCK,), tl.float32)
        for c in tl.static_range(CHANNELS):
            total = tl.sum(tl.load(sums + (image * CHANNELS + c) * parts + part, mask=part < parts, other=0.0))
            value = total / (values // CHANNELS).to(tl.float32)
            if images.dtype.element_ty == tl.uint8:
                value = (value / 255 - tl.load(mean + c)) / tl.load(std + c)
            fill = tl.where(channel == c, value, fill)
        row, column = i // (WIDTH * CHANNELS), i % (WIDTH * CHANNELS) // CHANNELS
        cell = row // CELL_HEIGHT * (WIDTH // CELL_WIDTH) + column // CELL_WIDTH
        x = tl.where(tl.load(hidden + image * cells + cell, mask=inside, other=0) != 0, fill, x)
    tl.store(out + image * values + i, x.to(out.dtype.element_ty), mask=inside)


def launch(images, hidden, mean, std, dtype):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    images, mean, std = images.contiguous(), mean.contiguous(), std.contiguous()
    batch, height, width, channels = images.shape
    values = height * width * channels
    out = images.new_empty(images.shape, dtype=dtype)
    if not out.numel():
        return out
    sums, cells, parts, cell = mean, mean, 1, (height, width)
    if hidden is not None:
        parts = triton.cdiv(values, _SUMMED)
        sums, cells = images.new_empty((batch, channels, parts), dtype=torch.float32), hidden.contiguous()
        cell = (height // cells.shape[1], width // cells.shape[2])
        _sums[(parts, batch)](images, sums, values, CHANNELS=channels, BLOCK=_SUMMED, num_warps=8)
    _write[(triton.cdiv(values, _WRITTEN), batch)](
        images, cells.view(torch.uint8), sums, mean, std, out, values, parts, height * width // (cell[0] * cell[1]),
        CHANNELS=channels, WIDTH=width, CELL_HEIGHT=cell[0], CELL_WIDTH=cell[1], FILL=hidden is not None,
        PARTS=triton.next_power_of_2(parts), BLOCK=_WRITTEN, num_warps=4,
    )  # fmt: skip
    return out


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for image in ("u8", "fp32"):
        yield f"sums {image}", _sums, [f"*{image}", "*fp32", "i32"], {"CHANNELS": 3, "BLOCK": _SUMMED}, 8
    for image, value, fill in (
        ("u8", "fp32", True),
        ("u8", "bf16", True),
        ("u8", "bf16", False),
        ("fp32", "fp32", True),
    ):
        types = [f"*{image}", "*u8", "*fp32", "*fp32", "*fp32", f"*{value}", "i32", "i32", "i32"]
        cell, parts = (32, 64) if fill else (224, 1)
        constants = {
            "CHANNELS": 3, "WIDTH": 224, "CELL_HEIGHT": cell, "CELL_WIDTH": cell, "FILL": fill, "PARTS": parts,
            "BLOCK": _WRITTEN,
        }  # fmt: skip
        yield f"224 x 224 {image} {value}{' fill' if fill else ''}", _write, types, constants, 4
