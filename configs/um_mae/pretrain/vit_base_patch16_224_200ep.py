"""UM-MAE, ViT-B/16, 224 px, 200 epochs.   arXiv:2205.10063, main table, row ViT-B UM-MAE.

Recipe of implus/UM-MAE's Makefile, `pretrain_mae_vit_base_patch16_dec512d2b_224_mask_vmr025_200e`.

Published (the repository's README): 82.88 % fine-tune.
"""

from fastmim.recipe import UniformMasking, change, load

mae = load("vit_base_patch16_224_mae_200ep.py")
config = change(mae, masking=UniformMasking(secondary=0.25), run=dict(dir="runs/um_mae_vit_base_200ep"))
