"""MAE, ViT-L/16, 224 px, 1600 epochs.   arXiv:2111.06377; recipe of the official PRETRAIN.md.

Published: 85.9 % fine-tune (official evaluation 85.952), 75.8 % linear.
"""

from fastmim.recipe import ViT, change, load

base = load("vit_base_patch16_224_800ep.py")
config = change(
    base,
    encoder=ViT("vit_large_patch16_224"),
    train=dict(epochs=1600),
    run=dict(dir="runs/mae_vit_large_1600ep"),
)
