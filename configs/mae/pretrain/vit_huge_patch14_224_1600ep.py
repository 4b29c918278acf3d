"""MAE, ViT-H/14, 224 px, 1600 epochs.   arXiv:2111.06377; recipe of the official PRETRAIN.md.

Published: 86.9 % fine-tune (official evaluation 86.928), 76.6 % linear.
"""

from fastmim.recipe import ViT, change, load

base = load("vit_base_patch16_224_800ep.py")
config = change(
    base,
    encoder=ViT("vit_huge_patch14_224"),
    train=dict(epochs=1600),
    run=dict(dir="runs/mae_vit_huge_1600ep"),
)
