"""Fine-tuning of A2MIM's ViT-S/16 (768 x 8), 224 px, 200 epochs.   arXiv:2205.13943; openmixup, epochs of its readme.

Published: 82.1 %.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.config.classify import EMA

base = load("vit_base_patch16_224_100ep.py")
row = load("../pretrain/vit_small_patch16_224_800ep.py")
config = replace(
    base,
    encoder=replace(row.encoder, drop_path=0.1),
    ema=EMA(),
    train=replace(base.train, epochs=200),
    run=replace(base.run, dir="runs/a2mim_vit_small_finetune", init=row.run.dir),
)
