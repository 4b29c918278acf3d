"""Fine-tuning of MAE's ViT-H/14, 224 px, 50 epochs.   arXiv:2111.06377; recipe of the official FINETUNE.md.

Published: 86.9 % (1600 epochs of pre-training).
"""

from fastmim.recipe import change, load

base = load("vit_base_patch16_224_100ep.py")
config = change(
    base,
    encoder=dict(name="vit_huge_patch14_224", drop_path=0.3),
    optim=dict(blr=1e-3, layer_decay=0.75),
    train=dict(epochs=50),
    run=dict(dir="runs/mae_vit_huge_finetune", init="runs/mae_vit_huge_1600ep"),
)
