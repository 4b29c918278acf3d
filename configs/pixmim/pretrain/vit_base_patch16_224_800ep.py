"""PixMIM on MAE, ViT-B/16, 224 px, 800 epochs.   arXiv:2303.02416; recipe of open-mmlab/mmselfsup.

Published (mmselfsup's model zoo): 83.5 % fine-tune, 67.5 % linear. The zoo's probe of MAE used another crop.
"""

from fastmim.recipe import change, load

base = load("vit_base_patch16_224_300ep.py")
config = change(
    base,
    optim=dict(warmup_lr=2.4e-12),
    train=dict(epochs=800),
    run=dict(dir="runs/pixmim_vit_base_800ep"),
)
