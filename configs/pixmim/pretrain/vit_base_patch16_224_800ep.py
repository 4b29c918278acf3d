"""PixMIM on MAE, ViT-B/16, 224 px, 800 epochs.   arXiv:2303.02416; recipe of open-mmlab/mmselfsup.

Published (mmselfsup's model zoo): 83.5 % fine-tune, 67.5 % linear. The zoo's probe of MAE used another crop.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load

base = load("vit_base_patch16_224_300ep.py")
config = replace(
    base,
    optim=replace(base.optim, warmup_lr=2.4e-12),
    train=replace(base.train, epochs=800),
    run=replace(base.run, dir="runs/pixmim_vit_base_800ep"),
)
