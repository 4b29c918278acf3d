"""Ops of masked image modelling: a reference in plain torch, C++ for CPUs, Triton for CUDA.

Each op has its own folder. The package imports torch (triton only when a CUDA tensor needs it), never fastmim.
"""

from ._memory import keep_freed_memory as keep_freed_memory
from ._op import OPS as OPS
from ._op import backends as backends
from ._op import load_library
from ._op import require as require
from ._op import use_reference as use_reference
from ._op import using_reference as using_reference
from .block_mask import block_mask as block_mask
from .composite_residual import composite_residual as composite_residual
from .focal_frequency import focal_frequency_loss as focal_frequency_loss
from .low_pass import low_pass as low_pass
from .mask_token import mask_token as mask_token
from .mean_fill import mean_fill as mean_fill
from .patch_gather import patch_gather as patch_gather
from .patch_loss import patch_loss as patch_loss
from .philox import philox as philox
from .philox import uniform as uniform
from .random_mask import random_mask as random_mask
from .uniform_mask import uniform_mask as uniform_mask
from .unshuffle import unshuffle as unshuffle
from .window_attention import window_attention as window_attention

load_library()
