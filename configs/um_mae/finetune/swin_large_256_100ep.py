"""Fine-tuning of UM-MAE's Swin-L, 256 px, windows of 16, 100 epochs.   arXiv:2205.10063; the official Makefile.

Published: 85.2 %.
"""

from fastmim.recipe import change, load

base = load("swin_tiny_256_100ep.py")
row = load("../pretrain/swin_large_256_800ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.2),
    optim=dict(layer_decay=0.7),
    run=dict(dir="runs/um_mae_swin_large_finetune", init=row.run.dir),
)
