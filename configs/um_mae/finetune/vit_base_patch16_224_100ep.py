"""Fine-tuning of UM-MAE's ViT-B/16, 224 px, 100 epochs.   arXiv:2205.10063; the official repository's Makefile.

Published: 82.88 %, of the MAE of the same table too (--run.init runs/um_mae_vit_base_mae_200ep).
"""

from fastmim.recipe import change, load

base = load("../../mae/finetune/vit_base_patch16_224_100ep.py")
config = change(
    base,
    optim=dict(layer_decay=0.8),
    run=dict(dir="runs/um_mae_vit_base_finetune", init="runs/um_mae_vit_base_200ep"),
)
