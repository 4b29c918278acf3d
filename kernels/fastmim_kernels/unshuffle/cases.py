"""Named inputs of unshuffle, for its tests and its benchmark."""

from dataclasses import dataclass, replace

import torch

from .._targets import MOVES
from . import reference, unshuffle


@dataclass(frozen=True)
class Case:
    batch: int
    num_patches: int
    num_keep: int
    dim: int
    num_prefix: int = 1
    raster: bool = False
    params: torch.dtype | None = None
    """Type of mask_token and pos_embed; None = the type of latent."""
    strided: bool = False
    """True = latent and ids are views with gaps."""


_MAE_B = Case(batch=64, num_patches=196, num_keep=49, dim=512)

BENCH_DTYPES = ("fp32", "bf16")
BENCH = {
    "mae_vit_b/16, l/16": _MAE_B,
    "mae_vit_b/16, l/16 batch 8": replace(_MAE_B, batch=8),
    "mae_vit_b/16, l/16 raster": replace(_MAE_B, raster=True),
    "mae_vit_h/14": replace(_MAE_B, num_patches=256, num_keep=64),
}

_SMALL = Case(batch=2, num_patches=9, num_keep=4, dim=24)
CASES = {
    "mae_decoder": Case(2, 20, 5, 512),
    "mae_decoder_raster": Case(2, 20, 5, 512, raster=True),
    "float_params": replace(_SMALL, params=torch.float32),
    "float_params_raster": replace(_SMALL, params=torch.float32, raster=True),
    "no_prefix": replace(_SMALL, num_prefix=0),
    "two_prefix_tokens": replace(_SMALL, num_prefix=2, raster=True),
    "one_value": Case(1, 1, 1, 1, num_prefix=0),
    "primes": Case(3, 37, 11, 29),
    "primes_raster": Case(3, 37, 11, 131, num_prefix=5, raster=True),
    "strided": replace(_SMALL, strided=True),
    "strided_raster": replace(_SMALL, strided=True, raster=True),
    "nothing_visible": replace(_SMALL, num_keep=0),
    "nothing_hidden": replace(_SMALL, num_keep=9, raster=True),
    "no_images": replace(_SMALL, batch=0),
}

_DECODER = Case(batch=2, num_patches=9, num_keep=4, dim=512)
VARIANTS = {
    "dim 512 fp32": (_DECODER, torch.float32),
    "dim 512 bf16 fp32 (autocast)": (replace(_DECODER, params=torch.float32), torch.bfloat16),
    "dim 512 bf16 raster": (replace(_DECODER, raster=True), torch.bfloat16),
}
PER_IMAGE = (0, 3)
SAME_BITS = True
TARGETS = (MOVES,)


def permutations(case, generator: torch.Generator) -> torch.Tensor:
    """Returns (B, L): a permutation of the patches for each image."""
    gap = 1 + case.strided
    ids = torch.rand(case.batch, case.num_patches, generator=generator).argsort(1)
    return ids.repeat_interleave(gap, dim=1)[:, ::gap]


def inputs(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Returns the arguments of `torch.ops.fastmim.unshuffle`, equal on every device.

    dtype: type of `latent`.
    """
    generator = torch.Generator().manual_seed(seed)
    gap, params = 1 + case.strided, case.params or dtype
    latent = torch.randn(case.batch, case.num_prefix + case.num_keep, gap * case.dim, generator=generator)
    token = torch.randn(1, 1, case.dim, generator=generator)
    pos = torch.randn(1, case.num_prefix + case.num_patches, case.dim, generator=generator)
    ids = permutations(case, generator)
    latent = latent.to(device, dtype)[..., ::gap]
    return latent, token.to(device, params), pos.to(device, params), ids.to(device), case.raster


def bytes_moved(case: Case, dtype: torch.dtype) -> int:
    """Counts the bytes that cannot be avoided, forward and backward.

    The latent and the incoming gradient are read; result and gradient of the latent are written.
    """
    tokens = 2 * case.num_prefix + case.num_keep + case.num_patches
    return 2 * case.batch * tokens * case.dim * dtype.itemsize


def functions(case: Case, dtype: torch.dtype, device: str):
    """Returns the latent, and the functions of the latent that the benchmark runs.

    official: `forward_decoder` of MAE's models_mae.py.
    """
    latent, token, pos, ids, raster = inputs(case, dtype, device)
    token.requires_grad_()
    prefix, restore = case.num_prefix, ids.argsort(1)

    def official(latent):
        hidden = token.repeat(case.batch, case.num_patches - case.num_keep, 1)
        patches = torch.cat([latent[:, prefix:], hidden], dim=1)
        patches = patches.gather(1, restore[..., None].expand(-1, -1, case.dim))
        return torch.cat([latent[:, :prefix], patches], dim=1) + pos

    return latent.requires_grad_(), {
        "ours": lambda latent: unshuffle(latent, token, pos, ids, raster=raster),
        "reference": lambda latent: reference.unshuffle(latent, token, pos, ids, raster),
        "official": official,
    }
