"""MAE, ViT-H/14, 224 px, 800 epochs.   arXiv:2111.06377; recipe of the official PRETRAIN.md.

Published: none for 800 epochs.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.model.encoders.vit import ViT

base = load("vit_base_patch16_224_800ep.py")
config = replace(
    base,
    encoder=ViT("vit_huge_patch14_224"),
    train=replace(base.train, epochs=800),
    run=replace(base.run, dir="runs/mae_vit_huge_800ep"),
)
