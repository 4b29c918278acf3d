"""Launches every variant of every kernel, and every op on odd sizes, under compute-sanitizer.

    compute-sanitizer --tool memcheck python -m bench sanitize

torch's cache of GPU memory is off. So each tensor has its own allocation, and compute-sanitizer sees accesses beyond
the tensor.
"""

from __future__ import annotations

import importlib
import os
import re

import torch

import fastmim_kernels
from bench.ops import DTYPES
from bench.options import command_parser


def calls() -> list[tuple]:
    """Returns (op, case, dtype) of every call."""
    found = []
    for name in fastmim_kernels.OPS:
        cases = importlib.import_module(f"fastmim_kernels.{name}.cases")
        found += [(name, *call) for call in cases.VARIANTS.values()]
        # Kernels mask accesses at odd sizes.
        odd = [case for label, case in cases.CASES.items() if "primes" in label][:1]
        found += [(name, case, DTYPES[dtype]) for case in odd for dtype in cases.BENCH_DTYPES]
    return list(dict.fromkeys((name, case, dtype) for name, case, dtype in found))


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench sanitize`."""
    parser = command_parser("sanitize", __doc__)
    parser.add_argument(
        "--device", default="cuda", choices=("cpu", "cuda"), help="default: cuda; cpu needs TRITON_INTERPRET=1"
    )
    parser.add_argument("--share", default="1/1", metavar="K/N", help="every Nth call from the Kth on")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU; --device cpu runs in Triton's interpreter")
    share = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", args.share)
    if not share:
        parser.error(f"--share: expected K/N, such as 1/2, got {args.share}")
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # torch reads it at the first allocation on a GPU
    first, step = map(int, share.groups())
    for name, case, dtype in calls()[first - 1 :: step]:
        inputs = importlib.import_module(f"fastmim_kernels.{name}.cases").inputs
        importlib.import_module(f"fastmim_kernels.{name}.cuda").launch(*inputs(case, dtype, args.device))
        print(name, case, dtype, flush=True)
    if args.device == "cuda":
        torch.cuda.synchronize()
