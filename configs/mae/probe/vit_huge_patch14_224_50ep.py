"""Linear probe of MAE's ViT-H/14, 224 px, 50 epochs, as the official FINETUNE.md suggests.

Published: 76.6 % (1600 epochs of pre-training).
"""

from fastmim.recipe import change, load

base = load("vit_base_patch16_224_90ep.py")
config = change(
    base,
    encoder=dict(name="vit_huge_patch14_224"),
    train=dict(epochs=50),
    run=dict(dir="runs/mae_vit_huge_probe", init="runs/mae_vit_huge_1600ep"),
)
