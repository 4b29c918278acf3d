"""MAE, ViT-H/14, 224 px, 800 epochs.   arXiv:2111.06377; recipe of the official PRETRAIN.md.

Published: none for 800 epochs.
"""

from fastmim.recipe import ViT, change, load

base = load("vit_base_patch16_224_800ep.py")
config = change(
    base,
    encoder=ViT("vit_huge_patch14_224"),
    train=dict(epochs=800),
    run=dict(dir="runs/mae_vit_huge_800ep"),
)
