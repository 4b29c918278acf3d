"""Linear probe of PixMIM's ViT-B/16, 224 px, 90 epochs.   arXiv:2303.02416; mmselfsup's config with torchvision's crop.

MAE's rows of the same table were probed with other crops, so the difference to them is not PixMIM's alone.

Published: 63.3 % (300 epochs of pre-training), 67.5 % (800).
"""

from fastmim.recipe import change, load

base = load("../../mae/probe/vit_base_patch16_224_90ep.py")
config = change(
    base,
    data=dict(test_interpolation="bilinear"),
    optim=dict(warmup_lr=6.4e-4),
    run=dict(dir="runs/pixmim_vit_base_probe", init="runs/pixmim_vit_base_800ep"),
)
