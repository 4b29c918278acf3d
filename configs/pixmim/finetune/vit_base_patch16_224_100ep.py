"""Fine-tuning of PixMIM's ViT-B/16, 224 px, 100 epochs.   arXiv:2303.02416; MAE's recipe in mmselfsup's form.

Warm-up starts at 1e-4 of the peak. (In mmselfsup every layer's rate ends at 1e-6; here that end is scaled by layer.)

Published: 83.1 % (300 epochs of pre-training), 83.5 % (800).
"""

from fastmim.recipe import change, load

base = load("../../mae/finetune/vit_base_patch16_224_100ep.py")
config = change(
    base,
    optim=dict(warmup_lr=2e-7),
    run=dict(dir="runs/pixmim_vit_base_finetune", init="runs/pixmim_vit_base_800ep"),
)
