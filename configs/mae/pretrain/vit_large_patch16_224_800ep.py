"""MAE, ViT-L/16, 224 px, 800 epochs.   arXiv:2111.06377; recipe of the official PRETRAIN.md.

Published: 85.4 % fine-tune (TF), 85.5 % (PyTorch), about 42 h on 64 V100.
"""

from fastmim.recipe import ViT, change, load

base = load("vit_base_patch16_224_800ep.py")
config = change(
    base,
    encoder=ViT("vit_large_patch16_224"),
    train=dict(epochs=800),
    run=dict(dir="runs/mae_vit_large_800ep"),
)
