"""Fine-tuning of SimMIM's ViT-B/16, 224 px, 100 epochs.   arXiv:2111.09886; microsoft/SimMIM's configs.

The shared table of relative positions becomes one in each block; these tables decay, as in the official code.

Published: 83.8 %.
"""

from fastmim.recipe import change, load

base = load("swin_base_window7_224_100ep.py")
row = load("../pretrain/vit_base_patch16_224_800ep.py")
config = change(
    base,
    encoder=change(row.encoder, shared_bias=False, drop_path=0.1),
    head=dict(norm="new", init_std=2e-5),
    optim=dict(no_decay=("cls_token",), layer_decay=0.65),
    run=dict(dir="runs/simmim_vit_base_finetune", init=row.run.dir),
)
