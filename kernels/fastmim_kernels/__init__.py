"""Ops of masked image modelling, each with a reference in plain torch, a C++ (CPU) and a Triton (CUDA) implementation.

One folder per op. Imports torch (triton only when a CUDA tensor needs it), never fastmim.
"""

from ._memory import keep_freed_memory
from ._op import OPS, backends, load_library, require, use_reference, using_reference
from .block_mask import block_mask
from .composite_residual import composite_residual
from .focal_spectrum_ import spectral_loss
from .low_pass import low_pass
from .mask_token import mask_token
from .mean_fill import mean_fill
from .patch_gather import patch_gather
from .patch_loss import patch_loss
from .philox import philox, uniform
from .random_mask import random_mask
from .uniform_mask import uniform_mask
from .unshuffle import unshuffle
from .window_attention import window_attention

load_library()

__all__ = [
    "OPS",
    "backends",
    "block_mask",
    "composite_residual",
    "keep_freed_memory",
    "low_pass",
    "mask_token",
    "mean_fill",
    "patch_gather",
    "patch_loss",
    "philox",
    "random_mask",
    "require",
    "spectral_loss",
    "uniform",
    "uniform_mask",
    "unshuffle",
    "use_reference",
    "using_reference",
    "window_attention",
]
