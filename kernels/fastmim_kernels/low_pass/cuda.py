"""low_pass for CUDA tensors, in Triton: the pruned transform as products with tables of waves, on matrix units.

Of an n x n channel with F frequencies a side (41 at radius 40, in tables of 64), in multiply-adds: 4 F (n / 2)^2 +
4 F^2 (n / 2) forward and twice that (real and imaginary part) back. The spectrum between the two kernels is real, with
an entry per pair of waves: cosines and sines of each side.
"""

import functools
import math

import torch
import triton
import triton.language as tl

from . import reference


@triton.jit
def _pixels(images, y, x, image, height, width, CHANNELS: tl.constexpr, channel, scale, shift, inside):
    """Normalised pixels at (y, x) of one channel."""
    offset = ((image * height + y[:, None]) * width + x[None, :]) * CHANNELS + channel
    value = tl.load(images + offset, mask=inside, other=0).to(tl.float32)
    if images.dtype.element_ty == tl.uint8:
        value = tl.where(inside, value * scale + shift, 0.0)
    return value


@triton.jit
def _forward(
    images,  # (B, H, W, C), contiguous
    mean,  # (C,)
    std,  # (C,)
    cos_y,  # (FU, GY): waves of rows; sin_y alike
    sin_y,
    cos_x,  # (FV, GX)
    sin_x,
    weights,  # (4, FU, FV): what remains of frequencies of the same sign, of opposite signs; the same, imaginary part
    spectrum,  # (B C, 4 or 8, FU, FV): cos cos, cos sin, sin cos, sin sin of the real part, then of the imaginary part
    height,
    width,
    CHANNELS: tl.constexpr,
    FU: tl.constexpr,
    FV: tl.constexpr,
    GY: tl.constexpr,
    GX: tl.constexpr,
    COMPLEX: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK: tl.constexpr,
):
    plane = tl.program_id(0).to(tl.int64)
    image, channel = plane // CHANNELS, plane % CHANNELS
    s = tl.load(std + channel)
    scale, shift = 1 / (255 * s), -tl.load(mean + channel) / s
    u = tl.program_id(1) * BLOCK_U + tl.arange(0, BLOCK_U)
    v = tl.program_id(2) * BLOCK_V + tl.arange(0, BLOCK_V)
    i = tl.arange(0, BLOCK)
    cc = tl.zeros((BLOCK_U, BLOCK_V), tl.float32)
    cs = tl.zeros((BLOCK_U, BLOCK_V), tl.float32)
    sc = tl.zeros((BLOCK_U, BLOCK_V), tl.float32)
    ss = tl.zeros((BLOCK_U, BLOCK_V), tl.float32)
    for gx in range(0, GX, BLOCK):
        right, left = width // 2 + gx + i, (width - 1) // 2 - gx - i
        # Of an odd number of pixels the middle one mirrors itself: half of it on either side.
        share_x = tl.where(right == left, 0.5, 1.0)
        down_cc = tl.zeros((BLOCK_U, BLOCK), tl.float32)
        down_cs = tl.zeros((BLOCK_U, BLOCK), tl.float32)
        down_sc = tl.zeros((BLOCK_U, BLOCK), tl.float32)
        down_ss = tl.zeros((BLOCK_U, BLOCK), tl.float32)
        for gy in range(0, GY, BLOCK):
            below, above = height // 2 + gy + i, (height - 1) // 2 - gy - i
            inside = (above >= 0)[:, None] & (left >= 0)[None, :]
            a = _pixels(images, below, right, image, height, width, CHANNELS, channel, scale, shift, inside)
            b = _pixels(images, below, left, image, height, width, CHANNELS, channel, scale, shift, inside)
            c = _pixels(images, above, right, image, height, width, CHANNELS, channel, scale, shift, inside)
            d = _pixels(images, above, left, image, height, width, CHANNELS, channel, scale, shift, inside)
            share = tl.where(below == above, 0.5, 1.0)[:, None] * share_x[None, :]
            table = u[:, None] * GY + gy + i[None, :]
            cos, sin = tl.load(cos_y + table), tl.load(sin_y + table)
            down_cc = tl.dot(cos, ((a + c) + (b + d)) * share, down_cc, input_precision=PRECISION)
            down_cs = tl.dot(cos, ((a + c) - (b + d)) * share, down_cs, input_precision=PRECISION)
            down_sc = tl.dot(sin, ((a - c) + (b - d)) * share, down_sc, input_precision=PRECISION)
            down_ss = tl.dot(sin, ((a - c) - (b - d)) * share, down_ss, input_precision=PRECISION)
        table = v[None, :] * GX + gx + i[:, None]
        cos, sin = tl.load(cos_x + table), tl.load(sin_x + table)
        cc = tl.dot(down_cc, cos, cc, input_precision=PRECISION)
        cs = tl.dot(down_cs, sin, cs, input_precision=PRECISION)
        sc = tl.dot(down_sc, cos, sc, input_precision=PRECISION)
        ss = tl.dot(down_ss, sin, ss, input_precision=PRECISION)

    at = u[:, None] * FV + v[None, :]
    same, opposite = tl.load(weights + at), tl.load(weights + FU * FV + at)
    parts: tl.constexpr = 8 if COMPLEX else 4
    out = spectrum + plane * parts * FU * FV + at
    tl.store(out, same * (cc - ss) + opposite * (cc + ss))
    tl.store(out + FU * FV, same * (sc + cs) - opposite * (sc - cs))
    tl.store(out + 2 * FU * FV, same * (sc + cs) + opposite * (sc - cs))
    tl.store(out + 3 * FU * FV, opposite * (cc + ss) - same * (cc - ss))
    if COMPLEX:
        same, opposite = tl.load(weights + 2 * FU * FV + at), tl.load(weights + 3 * FU * FV + at)
        tl.store(out + 4 * FU * FV, -same * (sc + cs) - opposite * (sc - cs))
        tl.store(out + 5 * FU * FV, same * (cc - ss) - opposite * (cc + ss))
        tl.store(out + 6 * FU * FV, same * (cc - ss) + opposite * (cc + ss))
        tl.store(out + 7 * FU * FV, same * (sc + cs) - opposite * (sc - cs))


@triton.jit
def _waves(
    part, table_y, table_x, y, x,
    FU: tl.constexpr, FV: tl.constexpr, GY: tl.constexpr, GX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_U: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """One part of the spectrum, (FU, FV), back to places (y, x)."""
    value = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    for first_u in range(0, FU, BLOCK_U):
        u = first_u + tl.arange(0, BLOCK_U)
        across = tl.zeros((BLOCK_U, BLOCK_X), tl.float32)
        for first_v in range(0, FV, BLOCK_V):
            v = first_v + tl.arange(0, BLOCK_V)
            waves = tl.load(table_x + v[:, None] * GX + x[None, :])
            kept = tl.load(part + u[:, None] * FV + v[None, :])
            across = tl.dot(kept, waves, across, input_precision=PRECISION)
        waves = tl.load(table_y + u[None, :] * GY + y[:, None])
        value = tl.dot(waves, across, value, input_precision=PRECISION)
    return value


@triton.jit
def _write(out, wanted, real, imaginary, y, x, image, height, width, channel, CHANNELS: tl.constexpr,
           PATCH: tl.constexpr, WANTED: tl.constexpr, COMPLEX: tl.constexpr, grey, inside):  # fmt: skip
    value = real + grey
    value = (tl.sqrt(value * value + imaginary * imaginary) if COMPLEX else tl.abs(value)) - grey
    if WANTED:
        row = (image * (height // PATCH) + y[:, None] // PATCH) * (width // PATCH) + x[None, :] // PATCH
        value = tl.where(tl.load(wanted + row, mask=inside, other=0) != 0, value, 0.0)
    offset = ((image * height + y[:, None]) * width + x[None, :]) * CHANNELS + channel
    tl.store(out + offset, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _inverse(
    spectrum,
    mean,
    std,
    cos_y,
    sin_y,
    cos_x,
    sin_x,
    wanted,  # (B, patches) uint8, read if WANTED
    out,  # (B, H, W, C)
    height,
    width,
    CHANNELS: tl.constexpr,
    PATCH: tl.constexpr,
    WANTED: tl.constexpr,
    FU: tl.constexpr,
    FV: tl.constexpr,
    GY: tl.constexpr,
    GX: tl.constexpr,
    COMPLEX: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    plane = tl.program_id(0).to(tl.int64)
    image, channel = plane // CHANNELS, plane % CHANNELS
    grey = tl.load(mean + channel) / tl.load(std + channel)
    y = tl.program_id(1) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    x = tl.program_id(2) * BLOCK_X + tl.arange(0, BLOCK_X)
    parts: tl.constexpr = 8 if COMPLEX else 4
    real = spectrum + plane * parts * FU * FV
    cc = _waves(real, cos_y, cos_x, y, x, FU, FV, GY, GX, PRECISION, BLOCK_U, BLOCK_V, BLOCK_Y, BLOCK_X)
    cs = _waves(real + FU * FV, cos_y, sin_x, y, x, FU, FV, GY, GX, PRECISION, BLOCK_U, BLOCK_V, BLOCK_Y, BLOCK_X)
    sc = _waves(real + 2 * FU * FV, sin_y, cos_x, y, x, FU, FV, GY, GX, PRECISION, BLOCK_U, BLOCK_V, BLOCK_Y, BLOCK_X)
    ss = _waves(real + 3 * FU * FV, sin_y, sin_x, y, x, FU, FV, GY, GX, PRECISION, BLOCK_U, BLOCK_V, BLOCK_Y, BLOCK_X)
    a, b, c, d = (cc + cs) + (sc + ss), (cc - cs) + (sc - ss), (cc + cs) - (sc + ss), (cc - cs) - (sc - ss)
    e, f, g, h = a, b, c, d
    if COMPLEX:
        odd = real + 4 * FU * FV
        cc = _waves(odd, cos_y, cos_x, y, x, FU, FV, GY, GX, PRECISION, BLOCK_U, BLOCK_V, BLOCK_Y, BLOCK_X)
        cs = _waves(odd + FU * FV, cos_y, sin_x, y, x, FU, FV, GY, GX, PRECISION, BLOCK_U, BLOCK_V, BLOCK_Y, BLOCK_X)
        sc = _waves(
            odd + 2 * FU * FV, sin_y, cos_x, y, x, FU, FV, GY, GX, PRECISION, BLOCK_U, BLOCK_V, BLOCK_Y, BLOCK_X
        )
        ss = _waves(
            odd + 3 * FU * FV, sin_y, sin_x, y, x, FU, FV, GY, GX, PRECISION, BLOCK_U, BLOCK_V, BLOCK_Y, BLOCK_X
        )
        e, f, g, h = (cc + cs) + (sc + ss), (cc - cs) + (sc - ss), (cc + cs) - (sc + ss), (cc - cs) - (sc - ss)
    below, above, right, left = height // 2 + y, (height - 1) // 2 - y, width // 2 + x, (width - 1) // 2 - x
    inside = (above >= 0)[:, None] & (left >= 0)[None, :]
    _write(
        out, wanted, a, e, below, right, image, height, width, channel, CHANNELS, PATCH, WANTED, COMPLEX, grey, inside
    )
    _write(
        out, wanted, b, f, below, left, image, height, width, channel, CHANNELS, PATCH, WANTED, COMPLEX, grey, inside
    )
    _write(
        out, wanted, c, g, above, right, image, height, width, channel, CHANNELS, PATCH, WANTED, COMPLEX, grey, inside
    )
    _write(
        out, wanted, d, h, above, left, image, height, width, channel, CHANNELS, PATCH, WANTED, COMPLEX, grey, inside
    )


# Places and frequencies that a program works on, at most.
_PLACES, _FREQUENCIES = 32, 64


def _sizes(size: int, radius: float) -> tuple[int, int, int]:
    """Frequencies 0 to the largest, as many as the tables have, and places: pixels that mirror each other share one."""
    most = min(math.floor(radius + 0.5), size // 2)
    block = min(max(triton.next_power_of_2(most + 1), 16), _FREQUENCIES)
    return most + 1, triton.cdiv(most + 1, block) * block, triton.cdiv((size + 1) // 2, _PLACES) * _PLACES


@functools.lru_cache(maxsize=16)
def _tables(height: int, width: int, radius: float, official: bool, device: torch.device):
    """Cosines and sines of rows and columns, (frequencies, places) each, and the weights of _forward."""
    waves, frequencies = [], []
    for size in (height, width):
        count, rows, places = _sizes(size, radius)
        f, k = torch.arange(count), torch.arange((size + 1) // 2)
        angle = math.pi / size * (f[:, None] * (2 * k + 1 - size % 2) % (2 * size)).double()
        pad = (0, places - len(k), 0, rows - count)
        waves += [torch.nn.functional.pad(wave, pad).float().to(device) for wave in (angle.cos(), angle.sin())]
        frequencies.append(f)
    kept = reference.disc((height, width), radius, official).double()
    odd = (kept - kept.flip(0, 1).roll((1, 1), (0, 1))) / 2
    weights = kept.new_zeros(4, *map(len, frequencies))
    for a in (1, -1):
        for b in (1, -1):
            # Of +-n/2 there is -n/2, and 0 has no sign.
            (down, on_down), (across, on_across) = (
                ((sign * f) % n, (-(n // 2) <= sign * f) & (sign * f <= (n - 1) // 2) & ((f > 0) | (sign > 0)))
                for sign, f, n in ((a, frequencies[0], height), (b, frequencies[1], width))
            )
            exists = on_down[:, None] & on_across
            weights[0 if a == b else 1] += kept[down][:, across] * exists
            weights[2 if a == b else 3] += a * odd[down][:, across] * exists
    pad = (0, waves[2].shape[0] - weights.shape[2], 0, waves[0].shape[0] - weights.shape[1])
    weights = torch.nn.functional.pad(weights / (height * width), pad)
    return waves, weights.float().to(device), bool(odd.any())


def launch(images, rows, patch_size, mean, std, radius, official, dtype, allow_tf32):
    """The op's schema, on CUDA tensors (on CPU tensors in Triton's interpreter)."""
    images, mean, std = images.contiguous(), mean.contiguous(), std.contiguous()
    batch, height, width, channels = images.shape
    out = torch.empty_like(images, dtype=dtype)
    if batch == 0:
        return out
    waves, weights, is_complex = _tables(height, width, radius, official, images.device)
    (fu, gy), (fv, gx) = waves[0].shape, waves[2].shape
    wanted = images.new_empty(0, dtype=torch.uint8)
    if rows is not None:
        wanted = wanted.new_zeros(batch * (height // patch_size) * (width // patch_size)).index_fill_(0, rows, 1)
    spectrum = mean.new_empty(batch * channels, 8 if is_complex else 4, fu, fv)
    block_u, block_v = min(fu, _FREQUENCIES), min(fv, _FREQUENCIES)
    shapes = {
        "CHANNELS": channels, "FU": fu, "FV": fv, "GY": gy, "GX": gx, "COMPLEX": is_complex,
        "PRECISION": "tf32" if allow_tf32 else "tf32x3", "BLOCK_U": block_u, "BLOCK_V": block_v, "num_warps": 8,
    }  # fmt: skip
    _forward[(batch * channels, fu // block_u, fv // block_v)](
        images, mean, std, *waves, weights, spectrum, height, width, BLOCK=_PLACES, **shapes
    )
    _inverse[(batch * channels, gy // _PLACES, gx // _PLACES)](
        spectrum, mean, std, *waves, wanted, out, height, width,
        PATCH=patch_size, WANTED=rows is not None, BLOCK_Y=_PLACES, BLOCK_X=_PLACES, **shapes,
    )  # fmt: skip
    return out


def compile_only():
    """What `bench.compile` compiles: (label, kernel, types of the runtime arguments, constants, warps)."""
    for label, size, image, value, precision, is_complex in [
        ("224 uint8 fp32", 224, "u8", "fp32", "tf32x3", True),
        ("224 fp32 fp32", 224, "fp32", "fp32", "tf32x3", True),
        ("224 uint8 bf16 tf32", 224, "u8", "bf16", "tf32", True),
        ("225 bf16 fp16", 225, "bf16", "fp16", "tf32x3", False),
    ]:
        _, f, g = _sizes(size, 40)
        shapes = {
            "CHANNELS": 3, "FU": f, "FV": f, "GY": g, "GX": g, "COMPLEX": is_complex, "PRECISION": precision,
            "BLOCK_U": f, "BLOCK_V": f,
        }  # fmt: skip
        types = [f"*{image}", *["*fp32"] * 8, "i32", "i32"]
        yield f"forward {label}", _forward, types, shapes | {"BLOCK": _PLACES}, 8
        types = [*["*fp32"] * 7, "*u8", f"*{value}", "i32", "i32"]
        blocks = {"BLOCK_Y": _PLACES, "BLOCK_X": _PLACES, "PATCH": 16, "WANTED": True}
        yield f"inverse {label}", _inverse, types, shapes | blocks, 8
