"""MAE, ViT-B/16, 224 px, 300 epochs.   arXiv:2111.06377; recipe of open-mmlab/mmselfsup, PixMIM's baseline.

Its tokens do not decay and its warm-up starts a little above 0, unlike the official recipe of the other files here.

Published (mmselfsup's model zoo): 82.8 % fine-tune, 60.8 % linear.
"""

from fastmim.recipe import change, load

base = load("vit_base_patch16_224_800ep.py")
config = change(
    base,
    optim=dict(warmup_lr=2.4e-7, no_decay=("cls_token", "mask_token")),
    train=dict(epochs=300),
    run=dict(dir="runs/mae_vit_base_300ep"),
)
