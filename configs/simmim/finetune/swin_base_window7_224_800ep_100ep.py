"""Fine-tuning of SimMIM's Swin-B, windows of 7 at 224 px, 100 epochs, after 800 epochs of pre-training.

arXiv:2111.09886; microsoft/SimMIM's configs.

Published: 84.0 %.
"""

from fastmim.recipe import change, load

base = load("swin_base_window7_224_100ep.py")
row = load("../pretrain/swin_base_window6_192_800ep.py")
config = change(
    base,
    optim=dict(layer_decay=0.8),
    run=dict(dir="runs/simmim_swin_base_800ep_finetune", init=row.run.dir),
)
