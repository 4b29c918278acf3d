"""Linear probe of MAE's ViT-L/16, 224 px, 50 epochs, which the official FINETUNE.md says suffice.

Published: 75.8 % (1600 epochs of pre-training).
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load

base = load("vit_base_patch16_224_90ep.py")
config = replace(
    base,
    encoder=replace(base.encoder, name="vit_large_patch16_224"),
    train=replace(base.train, epochs=50),
    run=replace(base.run, dir="runs/mae_vit_large_probe", init="runs/mae_vit_large_1600ep"),
)
