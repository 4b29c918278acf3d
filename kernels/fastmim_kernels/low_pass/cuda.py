"""low_pass for CUDA tensors, in Triton.

Matrix units compute the pruned transform as products with tables of waves.

The forward transform of an n x n channel with F frequencies a side (41 at radius 40, in tables of 64) takes
4 F (n / 2)^2 + 4 F^2 (n / 2) multiply-adds. At n = 224, the inverse transform takes twice the first term and 4 times
the second, because each program computes the columns for its own rows (real and imaginary part). Between the two
kernels, the spectrum is real, with an entry per pair of waves: cosines and sines of each side.
"""

import functools
import math

import torch
import triton
import triton.language as tl

from . import reference


@triton.jit
def _pixels(plane, y, x, width, CHANNELS: tl.constexpr, scale, shift, inside):
    """Returns the normalised pixels at (y, x) of one channel of an image."""
    value = tl.load(plane + (y[:, None] * width + x[None, :]) * CHANNELS, mask=inside, other=0).to(tl.float32)
    if plane.dtype.element_ty == tl.uint8:
        value = tl.where(inside, value * scale + shift, 0.0)
    return value


@triton.jit
def _forward(
    images,  # (B, H, W, C), contiguous
    mean,  # (C,)
    std,  # (C,)
    waves_y,  # (2, FU, GY): cosines and sines of rows
    waves_x,  # (2, FV, GX)
    spectrum,  # (B C, 4, FU, FV): the parts cos cos, cos sin, sin cos, sin sin of rows and columns
    height,
    width,
    CHANNELS: tl.constexpr,
    FU: tl.constexpr,
    FV: tl.constexpr,
    GY: tl.constexpr,
    GX: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    plane = tl.program_id(0).to(tl.int64)
    image, channel = plane // CHANNELS, plane % CHANNELS
    images += image * height * width * CHANNELS + channel
    part = tl.program_id(1) // (FU // BLOCK_U)
    sin_y, sin_x = part // 2, part % 2
    sign_y, sign_x = 1.0 - 2 * sin_y, 1.0 - 2 * sin_x
    s = tl.load(std + channel)
    scale, shift = 1 / (255 * s), -tl.load(mean + channel) / s
    u = tl.program_id(1) % (FU // BLOCK_U) * BLOCK_U + tl.arange(0, BLOCK_U)
    v = tl.program_id(2) * BLOCK_V + tl.arange(0, BLOCK_V)
    y, x = tl.arange(0, BLOCK_Y), tl.arange(0, BLOCK_X)
    value = tl.zeros((BLOCK_U, BLOCK_V), tl.float32)
    for gx in range(0, GX, BLOCK_X):
        right, left = width // 2 + gx + x, (width - 1) // 2 - gx - x
        # With an odd number of pixels, the middle pixel mirrors itself: half of its value counts on either side.
        share_x = tl.where(right == left, 0.5, 1.0)
        down = tl.zeros((BLOCK_U, BLOCK_X), tl.float32)
        for gy in range(0, GY, BLOCK_Y):
            below, above = height // 2 + gy + y, (height - 1) // 2 - gy - y
            inside = (above >= 0)[:, None] & (left >= 0)[None, :]
            a = _pixels(images, below, right, width, CHANNELS, scale, shift, inside)
            b = _pixels(images, below, left, width, CHANNELS, scale, shift, inside)
            c = _pixels(images, above, right, width, CHANNELS, scale, shift, inside)
            d = _pixels(images, above, left, width, CHANNELS, scale, shift, inside)
            folded = (a + sign_y * c) + sign_x * (b + sign_y * d)
            folded *= tl.where(below == above, 0.5, 1.0)[:, None] * share_x[None, :]
            table = tl.load(waves_y + (sin_y * FU + u[:, None]) * GY + gy + y[None, :])
            down = tl.dot(table, folded, down, input_precision=PRECISION)
        table = tl.load(waves_x + (sin_x * FV + v[None, :]) * GX + gx + x[:, None])
        value = tl.dot(down, table, value, input_precision=PRECISION)
    tl.store(spectrum + ((plane * 4 + part) * FU + u[:, None]) * FV + v[None, :], value)


@triton.jit
def _backward(
    spectrum, weights, waves_y, waves_x, y, x,
    FU: tl.constexpr, FV: tl.constexpr, GY: tl.constexpr, GX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_U: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, IMAGINARY: tl.constexpr,
):  # fmt: skip
    """Returns the real or imaginary part of the filtered image at places (y, x) and their mirrors.

    The four results are below right, below left, above right and above left. Each part of the filtered spectrum is a
    sum of two parts of the whole spectrum, weighted by `weights`, (8, 2, FU, FV).
    """
    a = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    b = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    c = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    d = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    # num_stages=1 keeps the loop from loading ahead: the loads of four rounds do not fit the registers.
    for part in tl.range(4, num_stages=1):
        first, second = part, 3 - part
        if IMAGINARY:
            first, second = part ^ 2, part ^ 1
        weight = weights + (part + 4 * IMAGINARY) * 2 * FU * FV
        value = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
        for first_u in range(0, FU, BLOCK_U):
            u = first_u + tl.arange(0, BLOCK_U)
            across = tl.zeros((BLOCK_U, BLOCK_X), tl.float32)
            for first_v in range(0, FV, BLOCK_V):
                v = first_v + tl.arange(0, BLOCK_V)
                at = u[:, None] * FV + v[None, :]
                kept = tl.load(weight + at) * tl.load(spectrum + first * FU * FV + at)
                kept += tl.load(weight + FU * FV + at) * tl.load(spectrum + second * FU * FV + at)
                table = tl.load(waves_x + (part % 2 * FV + v[:, None]) * GX + x[None, :])
                across = tl.dot(kept, table, across, input_precision=PRECISION)
            table = tl.load(waves_y + (part // 2 * FU + u[None, :]) * GY + y[:, None])
            value = tl.dot(table, across, value, input_precision=PRECISION)
        sign_y, sign_x = 1.0 - 2 * (part // 2), 1.0 - 2 * (part % 2)
        a += value
        b += sign_x * value
        c += sign_y * value
        d += sign_x * sign_y * value
    return a, b, c, d


@triton.jit
def _write(out, wanted, real, imaginary, y, x, width, CHANNELS: tl.constexpr, PATCH: tl.constexpr,
           WANTED: tl.constexpr, COMPLEX: tl.constexpr, grey, inside):  # fmt: skip
    value = real + grey
    value = (tl.sqrt(value * value + imaginary * imaginary) if COMPLEX else tl.abs(value)) - grey
    if WANTED:
        row = y[:, None] // PATCH * (width // PATCH) + x[None, :] // PATCH
        value = tl.where(tl.load(wanted + row, mask=inside, other=0) != 0, value, 0.0)
    tl.store(out + (y[:, None] * width + x[None, :]) * CHANNELS, value, mask=inside)


@triton.jit
def _inverse(
    spectrum,
    mean,
    std,
    waves_y,
    waves_x,
    weights,
    wanted,  # (B, patches) uint8, read if WANTED
    out,  # (B, H, W, C)
    height,
    width,
    CHANNELS: tl.constexpr,
    PATCH: tl.constexpr,
    WANTED: tl.constexpr,
    COMPLEX: tl.constexpr,
    FU: tl.constexpr,
    FV: tl.constexpr,
    GY: tl.constexpr,
    GX: tl.constexpr,
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
    part = spectrum + plane * 4 * FU * FV
    a, b, c, d = _backward(
        part, weights, waves_y, waves_x, y, x, FU, FV, GY, GX, PRECISION, BLOCK_U, BLOCK_V, BLOCK_Y, BLOCK_X, False
    )
    e, f, g, h = a, b, c, d
    if COMPLEX:
        e, f, g, h = _backward(
            part, weights, waves_y, waves_x, y, x, FU, FV, GY, GX, PRECISION, BLOCK_U, BLOCK_V, BLOCK_Y, BLOCK_X, True
        )
    out += image * height * width * CHANNELS + channel
    wanted += image * (height // PATCH) * (width // PATCH)
    below, above, right, left = height // 2 + y, (height - 1) // 2 - y, width // 2 + x, (width - 1) // 2 - x
    inside = (above >= 0)[:, None] & (left >= 0)[None, :]
    _write(out, wanted, a, e, below, right, width, CHANNELS, PATCH, WANTED, COMPLEX, grey, inside)
    _write(out, wanted, b, f, below, left, width, CHANNELS, PATCH, WANTED, COMPLEX, grey, inside)
    _write(out, wanted, c, g, above, right, width, CHANNELS, PATCH, WANTED, COMPLEX, grey, inside)
    _write(out, wanted, d, h, above, left, width, CHANNELS, PATCH, WANTED, COMPLEX, grey, inside)


# Largest tile of a program. If a product feeds another product, as in the three products of "tf32x3", Triton gives each
# warp its own rows, 16 at a time. With 64 rows, four warps hold no copies of one another's rows.
_BLOCK_U, _BLOCK_V, _BLOCK_Y, _BLOCK_X = 64, 32, 64, 16
_WARPS = 4


def _sizes(size: int, radius: float) -> tuple[int, int, int]:
    """Returns the number of frequencies, and the rows and places of a table.

    Pixels that mirror each other share a place.
    """
    most = min(math.floor(radius + 0.5), size // 2)
    block = min(max(triton.next_power_of_2(most + 1), 16), _BLOCK_U)
    return most + 1, triton.cdiv(most + 1, block) * block, triton.cdiv((size + 1) // 2, _BLOCK_Y) * _BLOCK_Y


def _shapes(channels: int, fu: int, fv: int, gy: int, gx: int, precision: str) -> dict:
    """Returns the constants of both kernels."""
    return {
        "CHANNELS": channels, "FU": fu, "FV": fv, "GY": gy, "GX": gx, "PRECISION": precision,
        "BLOCK_U": min(fu, _BLOCK_U), "BLOCK_V": min(fv, _BLOCK_V), "BLOCK_X": _BLOCK_X,
    }  # fmt: skip


@functools.lru_cache(maxsize=16)
def _tables(height: int, width: int, radius: float, official: bool, device: torch.device):
    """Returns the waves of rows and of columns, the weights of `_backward`, and a bool.

    The bool is True if the filtered image has an imaginary part.
    """
    waves, frequencies = [], []
    for size in (height, width):
        count, rows, places = _sizes(size, radius)
        f, k = torch.arange(count), torch.arange((size + 1) // 2)
        angle = math.pi / size * (f[:, None] * (2 * k + 1 - size % 2) % (2 * size)).double()
        pad = (0, places - len(k), 0, rows - count)
        waves.append(torch.nn.functional.pad(torch.stack([angle.cos(), angle.sin()]), pad).float().to(device))
        frequencies.append(f)
    kept = reference.disc((height, width), radius, official).double()
    odd = (kept - kept.flip(0, 1).roll((1, 1), (0, 1))) / 2
    # Parts for frequencies of the same sign, and of opposite signs.
    even_parts, odd_parts = kept.new_zeros(2, 2, *map(len, frequencies))
    for a in (1, -1):
        for b in (1, -1):
            # Of +-n/2 only -n/2 exists, and frequency 0 counts once.
            (down, on_down), (across, on_across) = (
                ((sign * f) % n, (-(n // 2) <= sign * f) & (sign * f <= (n - 1) // 2) & ((f > 0) | (sign > 0)))
                for sign, f, n in ((a, frequencies[0], height), (b, frequencies[1], width))
            )
            exists = on_down[:, None] & on_across
            even_parts[int(a != b)] += kept[down][:, across] * exists
            odd_parts[int(a != b)] += a * odd[down][:, across] * exists
    (same, opposite), (odd_same, odd_opposite) = even_parts, odd_parts
    total, difference = same + opposite, opposite - same
    odd_total, odd_difference = odd_same + odd_opposite, odd_opposite - odd_same
    weights = torch.stack(
        [torch.stack([total, sign * difference]) for sign in (1, -1, -1, 1)]
        + [torch.stack([y * odd_total, x * odd_difference]) for y, x in ((-1, 1), (-1, -1), (1, 1), (1, -1))]
    )
    pad = (0, waves[1].shape[1] - weights.shape[3], 0, waves[0].shape[1] - weights.shape[2])
    weights = torch.nn.functional.pad(weights / (height * width), pad).float().to(device)
    return *waves, weights, bool(odd.any())


def launch(images, rows, patch_size, mean, std, radius, official, allow_tf32):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    images, mean, std = images.contiguous(), mean.contiguous(), std.contiguous()
    batch, height, width, channels = images.shape
    out = torch.empty_like(images, dtype=torch.float32)
    if batch == 0:
        return out
    waves_y, waves_x, weights, is_complex = _tables(height, width, radius, official, images.device)
    (_, fu, gy), (_, fv, gx) = waves_y.shape, waves_x.shape
    wanted = images.new_empty(0, dtype=torch.uint8)
    if rows is not None:
        wanted = wanted.new_zeros(batch * (height // patch_size) * (width // patch_size)).index_fill_(0, rows, 1)
    spectrum = mean.new_empty(batch * channels, 4, fu, fv)
    shapes = _shapes(channels, fu, fv, gy, gx, "tf32" if allow_tf32 else "tf32x3")
    _forward[(batch * channels, 4 * fu // shapes["BLOCK_U"], fv // shapes["BLOCK_V"])](
        images, mean, std, waves_y, waves_x, spectrum, height, width, BLOCK_Y=_BLOCK_Y // 2, **shapes, num_warps=_WARPS
    )
    blocks = triton.cdiv((height + 1) // 2, _BLOCK_Y), triton.cdiv((width + 1) // 2, _BLOCK_X)
    _inverse[(batch * channels, *blocks)](
        spectrum, mean, std, waves_y, waves_x, weights, wanted, out, height, width,
        PATCH=patch_size, WANTED=rows is not None, COMPLEX=is_complex, BLOCK_Y=_BLOCK_Y, **shapes, num_warps=_WARPS,
    )  # fmt: skip
    return out


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    for label, size, image, precision, is_complex in [
        ("224 uint8", 224, "u8", "tf32x3", True),
        ("224 fp32", 224, "fp32", "tf32x3", True),
        ("224 uint8 tf32", 224, "u8", "tf32", True),
        ("225 bf16", 225, "bf16", "tf32x3", False),
    ]:
        _, f, g = _sizes(size, 40)
        shapes = _shapes(3, f, f, g, g, precision)
        types = [f"*{image}", *["*fp32"] * 5, "i32", "i32"]
        yield f"forward {label}", _forward, types, shapes | {"BLOCK_Y": _BLOCK_Y // 2}, _WARPS
        types = [*["*fp32"] * 6, "*u8", "*fp32", "i32", "i32"]
        writing = {"PATCH": 16 - size % 2, "WANTED": True, "COMPLEX": is_complex, "BLOCK_Y": _BLOCK_Y}
        yield f"inverse {label}", _inverse, types, shapes | writing, _WARPS
