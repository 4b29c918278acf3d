"""Fine-tuning of SimMIM's Swin-L, windows of 14 at 224 px, 100 epochs.   arXiv:2111.09886; microsoft/SimMIM's configs.

Published: 85.4 %.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load

base = load("swin_base_window7_224_100ep.py")
row = load("../pretrain/swin_large_window12_192_800ep.py")
config = replace(
    base,
    encoder=replace(row.encoder, window=14, drop_path=0.2),
    optim=replace(base.optim, layer_decay=0.7),
    run=replace(base.run, dir="runs/simmim_swin_large_finetune", init=row.run.dir),
)
