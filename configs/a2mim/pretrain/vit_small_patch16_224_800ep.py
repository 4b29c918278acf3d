"""A2MIM, ViT-S/16, 224 px, 800 epochs.   arXiv:2205.13943; recipe of Westlake-AI/openmixup's configs.

ViT-S is 768 wide, 8 blocks of 8 heads and 2304 hidden units: timm's old ViT-S, 48.8 M.
The Fourier loss averages spectra over the images of a micro-batch, officially 256: keep it a multiple of that.
Published (official README, "ViT-S"): 82.1 % fine-tune (of 200 epochs).
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.model.losses import FocalFrequency

base = load("vit_base_patch16_224_800ep.py")
config = replace(
    base,
    encoder=replace(base.encoder, depth=8, num_heads=8, mlp_ratio=3.0),
    loss=replace(base.loss, fourier=FocalFrequency(batch=256)),
    run=replace(base.run, dir="runs/a2mim_vit_small_patch16_224_800ep"),
)
