"""Fine-tuning of SimMIM's Swin-L, windows of 14 at 224 px, 100 epochs.   arXiv:2111.09886; microsoft/SimMIM's configs.

Published: 85.4 %.
"""

from fastmim.recipe import change, load

base = load("swin_base_window7_224_100ep.py")
row = load("../pretrain/swin_large_window12_192_800ep.py")
config = change(
    base,
    encoder=change(row.encoder, window=14, drop_path=0.2),
    optim=dict(layer_decay=0.7),
    run=dict(dir="runs/simmim_swin_large_finetune", init=row.run.dir),
)
