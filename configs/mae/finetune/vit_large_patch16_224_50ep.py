"""Fine-tuning of MAE's ViT-L/16, 224 px, 50 epochs.   arXiv:2111.06377; recipe of the official FINETUNE.md.

Published: 85.9 % (1600 epochs of pre-training).
"""

from fastmim.recipe import change, load

base = load("vit_base_patch16_224_100ep.py")
config = change(
    base,
    encoder=dict(name="vit_large_patch16_224", drop_path=0.2),
    optim=dict(blr=1e-3, layer_decay=0.75),
    train=dict(epochs=50),
    run=dict(dir="runs/mae_vit_large_finetune", init="runs/mae_vit_large_1600ep"),
)
