"""Launches every op on two small cases: what a sanitizer watches in `bench.gpu_check`.

Without torch's cache of memory every tensor is an allocation of its own, so that no access beside it goes unnoticed.
May import fastmim_kernels and bench.ops.
"""

from __future__ import annotations

import argparse
import importlib
import os

os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"

import torch  # noqa: E402

import fastmim_kernels  # noqa: E402
from bench.ops import DTYPES  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.each_op", description=__doc__)
    parser.add_argument("--device", default="cuda", help='or "cpu", with TRITON_INTERPRET=1')
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "each_op: expected a GPU, torch sees none; --device cpu runs in Triton's interpreter\n")
    for name in fastmim_kernels.OPS:
        cases = importlib.import_module(f"fastmim_kernels.{name}.cases")
        launch = importlib.import_module(f"fastmim_kernels.{name}.cuda").launch
        # Odd sizes have the masked accesses.
        odd = [label for label in cases.CASES if "primes" in label][:1]
        for label in dict.fromkeys([next(iter(cases.CASES)), *odd]):
            for dtype in cases.BENCH_DTYPES:
                launch(*cases.inputs(cases.CASES[label], DTYPES[dtype], args.device))
                print(f"{name:<28}{label:<28}{dtype}", flush=True)
    if args.device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
