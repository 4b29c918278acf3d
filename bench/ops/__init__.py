"""Benchmarks of single ops."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int64": torch.int64}
"""Dtypes by the names that `BENCH_DTYPES` of an op's cases uses."""
