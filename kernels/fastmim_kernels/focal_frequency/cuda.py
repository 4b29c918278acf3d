"""focal_frequency for CUDA tensors, in Triton: reads and writes each entry once."""

import torch
import triton
import triton.language as tl

_BLOCK = 1024


@triton.jit
def focal_l1(m, alpha, gamma, GAMMA_IS_1: tl.constexpr):
    """Returns m tanh(alpha m / 2)^gamma for m >= 0 and gamma >= 1, and its derivative."""
    h = 0.5 * alpha * m
    e = tl.exp(-2 * h)
    g = h * h
    near = h * (1 + g * (-1 / 3 + g * (2 / 15 + g * (-17 / 315 + g * (62 / 2835)))))
    t = tl.where(h < 0.25, near, (1 - e) / (1 + e))
    w = 1.0
    if not GAMMA_IS_1:
        w = tl.exp((gamma - 1) * tl.log(tl.maximum(t, 1e-30)))
    return m * (t * w), w * (t + m * (gamma * 0.5 * alpha) * (1 - t * t))


@triton.jit
def _entries(
    spectrum,  # (N, h, half, 2) float32, contiguous
    sums,  # (N, pieces) float32
    peaks,  # (N, pieces) float32
    entries,  # h * half
    half,
    alpha,
    gamma,
    EVEN: tl.constexpr,
    KIND: tl.constexpr,  # focal frequency: 0, with logarithm: 1; complex focal L1 of gamma 0: 2, of gamma 1: 3, else 4
    ALPHA_IS_1: tl.constexpr,
    BLOCK: tl.constexpr,
):
    plane, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = piece * BLOCK + tl.arange(0, BLOCK)
    inside = i < entries
    pair = 2 * piece * BLOCK + tl.arange(0, 2 * BLOCK)  # real and imaginary parts, side by side as in memory
    here = spectrum + plane * entries * 2 + pair
    values = tl.load(here, mask=pair < 2 * entries, other=0.0)
    real, imaginary = tl.split(tl.reshape(values, (BLOCK, 2)))
    power = real * real + imaginary * imaginary
    m = tl.sqrt(power)
    divisor = tl.where(m > 0, m, 1.0)
    peak = 1.0
    if KIND < 2:
        s = m
        if not ALPHA_IS_1:
            s = tl.where(m > 0, tl.exp(alpha * tl.log(divisor)), 0.0)
        if KIND == 1:
            y = 1 + s
            s = tl.where(y < float("inf"), tl.log(y) + (s - (y - 1)) / y, y)  # log(y), corrected for the rounding of y
        value, factor = s * power, 2 * s
        peak = tl.max(s)
    elif KIND == 2:
        value, factor = m, tl.where(m > 0, 1 / divisor, 0.0)
    else:
        value, slope = focal_l1(m, alpha, gamma, KIND == 3)
        factor = tl.where(m > 0, slope / divisor, 0.0)
    column = i % half
    once = column == 0
    if EVEN:
        once = once | (column == half - 1)
    total = tl.sum(tl.where(inside, tl.where(once, value, 2 * value), 0.0))
    place = plane * tl.num_programs(1) + piece
    tl.store(sums + place, total)
    tl.store(peaks + place, peak)
    result = tl.reshape(tl.join(real * factor, imaginary * factor), (2 * BLOCK,))
    tl.store(here, result, mask=pair < 2 * entries)


def launch(spectrum, width, alpha, gamma, log):
    """Runs the kernels on the schema's arguments: CUDA tensors, or CPU tensors in Triton's interpreter."""
    planes, height, half, _ = spectrum.shape
    kind = int(log) if gamma is None else {0: 2, 1: 3}.get(gamma, 4)
    shape = (planes, triton.cdiv(height * half, _BLOCK))
    sums, peaks = (spectrum.new_empty(shape) for _ in range(2))
    if planes:
        _entries[shape](
            spectrum, sums, peaks, height * half, half, alpha, gamma or 0.0,
            EVEN=width % 2 == 0, KIND=kind, ALPHA_IS_1=alpha == 1, BLOCK=_BLOCK, num_warps=4,
        )  # fmt: skip
    return sums.sum(1, dtype=torch.float64).float(), peaks.amax(1)


def compile_only():
    """Yields (label, kernel, types of runtime arguments, constants, warps) for `bench compile`."""
    types = ["*fp32", "*fp32", "*fp32", "i32", "i32", "fp32", "fp32"]
    for label, kind, alpha_is_1 in [
        ("focal frequency", 0, True),
        ("focal frequency log", 1, True),
        ("focal frequency log, power", 1, False),
        ("complex L1", 2, False),
        ("complex focal L1", 3, False),
        ("complex focal L1, power", 4, False),
    ]:
        constants = {"EVEN": True, "KIND": kind, "ALPHA_IS_1": alpha_is_1, "BLOCK": _BLOCK}
        yield label, _entries, types, constants, 4
