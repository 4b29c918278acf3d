"""MAE, ViT-B/16, 224 px, 1600 epochs.   arXiv:2111.06377; recipe of the official PRETRAIN.md.

Published: 83.6 % fine-tune (official evaluation 83.664), 68.0 % linear.
"""

from fastmim.recipe import change, load

base = load("vit_base_patch16_224_800ep.py")
config = change(base, train=dict(epochs=1600), run=dict(dir="runs/mae_vit_base_1600ep"))
