"""Ops of masked image modelling, each with a reference in plain torch, a C++ (CPU) and a Triton (CUDA) implementation.

One folder per op. Imports torch (triton only when a CUDA tensor needs it), never fastmim.
"""

from ._memory import keep_freed_memory
from ._op import OPS, backends, load_library, require, use_reference
from .patch_gather import patch_gather
from .patch_loss import patch_loss
from .philox import philox, uniform
from .random_mask import random_mask
from .unshuffle import unshuffle
from .window_attention import window_attention

load_library()

__all__ = [
    "OPS",
    "backends",
    "keep_freed_memory",
    "patch_gather",
    "patch_loss",
    "philox",
    "random_mask",
    "require",
    "uniform",
    "unshuffle",
    "use_reference",
    "window_attention",
]
