"""Fine-tuning of UM-MAE's Swin-T, 256 px, windows of 16, 100 epochs.   arXiv:2205.10063; the official Makefile.

Published: 82.04 %; 82.20 % of its SimMIM (--run.init runs/um_mae_swin_tiny_simmim_200ep).
"""

from fastmim.recipe import change, load

base = load("../../mae/finetune/vit_base_patch16_224_100ep.py")
row = load("../pretrain/swin_tiny_256_200ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.1),
    data=dict(size=(256, 256), crop_pct=1.0),
    optim=dict(no_decay=(), layer_decay=0.85),
    run=dict(dir="runs/um_mae_swin_tiny_finetune", init=row.run.dir),
)
