"""SimMIM as A2MIM's baseline, ViT-L/16, 224 px, 800 epochs.   arXiv:2205.13943; recipe of openmixup's configs.

Unlike microsoft's, this ViT has absolute positions and a table of relative ones in each block.
Published (README of Westlake-AI/A2MIM, "ViT-L", SimMIM): 85.6 % fine-tune.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load

base = load("simmim_vit_base_patch16_224_800ep.py")
config = replace(
    base,
    encoder=replace(base.encoder, name="beit_large_patch16_224"),
    run=replace(base.run, dir="runs/a2mim_simmim_vit_large_patch16_224_800ep"),
)
