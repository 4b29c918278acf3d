"""Fine-tuning of A2MIM's ViT-S/16 (768 x 8), 224 px, 200 epochs.   arXiv:2205.13943; openmixup, epochs of its readme.

Published: 82.1 %.
"""

from fastmim.recipe import EMA, change, load

base = load("vit_base_patch16_224_100ep.py")
row = load("../pretrain/vit_small_patch16_224_800ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.1),
    ema=EMA(),
    train=dict(epochs=200),
    run=dict(dir="runs/a2mim_vit_small_finetune", init=row.run.dir),
)
