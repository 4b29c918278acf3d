"""Linear probe of MAE's ViT-L/16, 224 px, 50 epochs, as the official FINETUNE.md suggests.

Published: 75.8 % (1600 epochs of pre-training).
"""

from fastmim.recipe import change, load

base = load("vit_base_patch16_224_90ep.py")
config = change(
    base,
    encoder=dict(name="vit_large_patch16_224"),
    train=dict(epochs=50),
    run=dict(dir="runs/mae_vit_large_probe", init="runs/mae_vit_large_1600ep"),
)
