"""Launches every compiled kernel, and every op on odd sizes, for the sanitizers of `bench.gpu_check`.

Without torch's memory cache every tensor is its own allocation, so that a sanitizer notices any access beyond it.
"""

# May import fastmim_kernels and bench.ops.

from __future__ import annotations

import importlib
import os
import re

os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"

import torch  # noqa: E402

import fastmim_kernels  # noqa: E402
from bench.ops import DTYPES  # noqa: E402
from fastmim.host.command import Parser, refusing


def calls() -> list[tuple]:
    """Returns (op, case, dtype) of every call."""
    found = []
    for name in fastmim_kernels.OPS:
        cases = importlib.import_module(f"fastmim_kernels.{name}.cases")
        found += [(name, *call) for call in cases.VARIANTS.values()]
        # Odd sizes have masked accesses.
        odd = [case for label, case in cases.CASES.items() if "primes" in label][:1]
        found += [(name, case, DTYPES[dtype]) for case in odd for dtype in cases.BENCH_DTYPES]
    return list(dict.fromkeys((name, case, dtype) for name, case, dtype in found))


def main() -> None:
    parser = Parser("python -m bench.each_op", __doc__)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"), help='or "cpu", with TRITON_INTERPRET=1')
    parser.add_argument("--share", default="1/1", metavar="K/N", help="every Nth call from the Kth on")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU; --device cpu runs in Triton's interpreter")
    share = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", args.share)
    if not share:
        parser.error(f"--share: expected K/N, such as 1/2, got {args.share}")
    first, step = map(int, share.groups())
    for name, case, dtype in calls()[first - 1 :: step]:
        inputs = importlib.import_module(f"fastmim_kernels.{name}.cases").inputs
        importlib.import_module(f"fastmim_kernels.{name}.cuda").launch(*inputs(case, dtype, args.device))
        print(name, case, dtype, flush=True)
    if args.device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    with refusing("python -m bench.each_op"):
        main()
