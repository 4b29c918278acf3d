"""MAE, ViT-L/16, 224 px, 800 epochs.   arXiv:2111.06377; recipe of the official PRETRAIN.md.

Published: 85.4 % fine-tune (TF), 85.5 % (PyTorch), about 42 h on 64 V100.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.model.encoders.vit import ViT

base = load("vit_base_patch16_224_800ep.py")
config = replace(
    base,
    encoder=ViT("vit_large_patch16_224"),
    train=replace(base.train, epochs=800),
    run=replace(base.run, dir="runs/mae_vit_large_800ep"),
)
