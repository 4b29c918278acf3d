"""Fine-tuning of UM-MAE's PVT-S, 256 px, 100 epochs.   arXiv:2205.10063; the official Makefile.

Published: 79.31 %; 79.28 % of its SimMIM (--run.init runs/um_mae_pvt_small_simmim_200ep).
"""

from fastmim.recipe import change, load

base = load("swin_tiny_256_100ep.py")
row = load("../pretrain/pvt_small_256_200ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.1),
    optim=dict(no_decay=("pos_embed",)),
    run=dict(dir="runs/um_mae_pvt_small_finetune", init=row.run.dir),
)
