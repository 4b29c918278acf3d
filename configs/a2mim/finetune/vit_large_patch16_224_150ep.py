"""Fine-tuning of A2MIM's ViT-L/16, 224 px, 150 epochs, augmentation repeated 3 times.   arXiv:2205.13943; openmixup.

Published: 86.1 %.
"""

from fastmim.recipe import change, load

base = load("vit_base_patch16_224_100ep.py")
row = load("../pretrain/vit_large_patch16_224_800ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.1),
    data=dict(repeats=3, repeats_together=True),
    train=dict(epochs=150),
    run=dict(dir="runs/a2mim_vit_large_finetune", init=row.run.dir),
)
