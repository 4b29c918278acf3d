"""Times each backend of torch's `scaled_dot_product_attention` at the sizes of masked image modelling.

The backends take turns, forward and backward together.
"""

from __future__ import annotations

import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from bench import record, timing
from bench.options import add_device, add_samples, command_parser
from fastmim.host.command import at_least

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
SHAPES = {
    "ViT-B encoder": (12, 50, 64),
    "ViT-B decoder": (16, 197, 32),
    "ViT-L encoder": (16, 50, 64),
    "ViT-H encoder": (16, 65, 80),
    "ViT-H decoder": (16, 257, 32),
}
"""Heads, tokens, and width of a head, by model."""


def step(backend: SDPBackend, shape: tuple[int, ...], device: str, dtype: torch.dtype) -> timing.Run:
    """Returns forward and backward of one backend, for `timing.measure`.

    Args:
        backend: the kernel of torch.
        shape: (batch, heads, tokens, width of a head).
        device: "cpu" or "cuda".
        dtype: dtype of queries, keys and values.
    """
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    grad = torch.randn(shape, device=device, dtype=dtype)

    def reset() -> None:
        for x in (q, k, v):
            x.grad = None

    def run(_) -> None:
        with sdpa_kernel(backend):
            scaled_dot_product_attention(q, k, v).backward(grad)

    return reset, run


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench sdpa`."""
    parser = command_parser("sdpa", __doc__)
    parser.add_argument("--batch", type=at_least(1), default=256, help="images (default 256)")
    add_samples(parser)
    add_device(parser)
    parser.add_argument("--record", action=record.Record)
    args = parser.parse_args(argv)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    for name, (heads, tokens, width) in SHAPES.items():
        runs = {}
        for backend, kind in BACKENDS.items():
            found = step(kind, (args.batch, heads, tokens, width), args.device, dtype)
            try:
                found[1](None)
            except RuntimeError as error:
                print(f"{name}, {backend} does not run: {' '.join(str(error).split())[:100]}")
            else:
                runs[backend] = found
        for backend, times in timing.measure(runs, args.samples, args.device).items():
            case = f"{name}, {tokens} tokens, {heads} heads of {width}, batch {args.batch}, {backend}"
            row = {"case": case, "device": args.device, "ms": statistics.median(times)}
            print(f"{case}: {row['ms']:.4g} ms", flush=True)
            if args.record:
                record.record(row, "sdpa")
