"""Fine-tuning of A2MIM's SimMIM on ViT-S/16 (768 x 8), 224 px, 100 epochs: half of what its A2MIM row has.

Published: 81.7 %.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load

base = load("vit_small_patch16_224_200ep.py")
row = load("../pretrain/simmim_vit_small_patch16_224_800ep.py")
config = replace(
    base,
    encoder=replace(row.encoder, drop_path=0.1),
    train=replace(base.train, epochs=100),
    run=replace(base.run, dir="runs/a2mim_simmim_vit_small_finetune", init=row.run.dir),
)
