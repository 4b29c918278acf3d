"""A2MIM, ViT-L/16, 224 px, 800 epochs.   arXiv:2205.13943; recipe of Westlake-AI/openmixup's configs.

The Fourier loss averages spectra over the images of a micro-batch, officially 128: keep it a multiple of that.
Published (official README, "ViT-L"): 86.1 % fine-tune (of 150 epochs).
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load

base = load("vit_base_patch16_224_800ep.py")
config = replace(
    base,
    encoder=replace(base.encoder, name="beit_large_patch16_224"),
    run=replace(base.run, dir="runs/a2mim_vit_large_patch16_224_800ep"),
)
