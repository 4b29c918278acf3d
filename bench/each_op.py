"""Launches every op's Triton kernels once, on a small case: what a sanitizer watches in `bench.gpu_check`.

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
    for name in fastmim_kernels.OPS:
        cases = importlib.import_module(f"fastmim_kernels.{name}.cases")
        # Odd sizes have the masked accesses.
        label = next((label for label in cases.CASES if "primes" in label), next(iter(cases.CASES)))
        for dtype in cases.BENCH_DTYPES:
            launch = importlib.import_module(f"fastmim_kernels.{name}.cuda").launch
            launch(*cases.inputs(cases.CASES[label], DTYPES[dtype], args.device))
            print(f"{name:<28}{label:<28}{dtype}", flush=True)
    if args.device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
